"""Scripts in several phases on one overlay, recorded after each: what barriers see."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path

from shannotd.runner import kernel
from shannotd.runner.capture import Layer, capture
from shannotd.runner.delta import History
from shannotd.runner.plan import Identity
from tests.runner import overlays
from tests.runner.overlays import Recording
from tests.support.operations import Phase, perform


def record_phases(top: Path, phases: Sequence[Phase], account: Identity) -> list[Recording]:
    """Do `phases` on an overlay over `top`/host; what was recorded after each."""
    return overlays.in_child(lambda: _record(top, phases, account))


def _record(top: Path, phases: Sequence[Phase], account: Identity) -> list[Recording]:
    host, layers = top / "host", top / "layers"
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", str(layers), "tmpfs", 0, "mode=755")
    for name in ("upper", "work", "merged"):
        (layers / name).mkdir()
    (layers / "upper").chmod(stat.S_IMODE(host.stat().st_mode))
    options = f"lowerdir={host},upperdir={layers}/upper,workdir={layers}/work,"
    options += "redirect_dir=on,metacopy=off"
    kernel.mount("overlay", f"{layers}/merged", "overlay", 0, options)
    started_ns = time.time_ns()
    upper = os.open(layers / "upper", os.O_RDONLY | os.O_DIRECTORY)
    mode = stat.S_IMODE(host.stat().st_mode)
    layer = Layer(str(host), upper, "trusted.overlay.", root_mode=mode)
    history = History()
    recordings = []
    for phase in phases:
        perform(f"{layers}/merged", phase)
        with capture(
            [layer],
            started_ns=started_ns,
            scratch=(),
            identity=account,
            limits=overlays.LIMITS,
            history=history,
        ) as recorded:
            contents = {sha256: content.read() for sha256, content in recorded.contents.items()}
        recordings.append(Recording(recorded.steps, recorded.notes, contents))
        history = recorded.history
    return recordings
