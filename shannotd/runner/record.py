"""From a finished sandbox to a plan on the job channel: capture, check, seal, send.

The contents of changed files go first, then the plan's canonical encoding with its digest
and the seal by which this runner will know it again.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from dataclasses import asdict
from typing import TYPE_CHECKING, Dict, List, Optional, Sequence

from shannotd.runner import plan as plans
from shannotd.runner.capture import Content, Layer, capture
from shannotd.runner.frames import MAX_PAYLOAD_BYTES, Channel, Header, RunnerError
from shannotd.runner.identity import machine
from shannotd.runner.permission import first_refusal

if TYPE_CHECKING:
    from shannotd.runner.mounts import Overlay
    from shannotd.runner.warm import Settings, Warm

INLINE_BYTES = 256 * 1024
BATCH_BYTES = 4 * 1024 * 1024
_OVERLAY_NAMES = ("trusted.overlay.", "user.overlay.")


def key(state: str) -> bytes:
    """The runner's secret for seals, made at the first use; only the runner's uid reads it.

    :raises RunnerError: `sandbox_unavailable`: it can be neither read nor made.
    """
    path = os.path.join(state, "runner.key")
    try:
        return _key_at(path)
    except OSError as error:
        reason = f"{path}: {error.strerror}"
        remedy = "See that the runner's directory can be written."
        raise RunnerError("sandbox_unavailable", reason=reason, remedy=remedy) from error


def _key_at(path: str) -> bytes:
    try:
        return _read_key(path)
    except FileNotFoundError:
        temporary = f"{path}.{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(temporary, flags, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)  # Whoever comes first wins; nobody overwrites.
        except FileExistsError:
            pass
        os.unlink(temporary)
        return _read_key(path)


def _read_key(path: str) -> bytes:
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb") as file:
        return file.read()


def record(
    job: Channel,
    request: Header,
    who: plans.Identity,
    warm: Warm,
    blocked: Sequence[plans.BlockedStep],
    started_ns: int,
    settings: Settings,
) -> None:
    """Capture the sandbox's effects and send them as a plan.

    :raises RunnerError: `capture_failed`, `limit_exceeded` or `not_permitted`.
    """
    prefix = "user.overlay." if settings.builder == "one-uid" else "trusted.overlay."
    layers: List[Layer] = []
    try:
        for overlay in warm.blueprint.overlays:
            if overlay.path in warm.blueprint.empty:
                continue
            layer = _open_layer(overlay, warm.stage, prefix)
            if layer is not None:
                layers.append(layer)
        if layers:
            job.flush()  # this may take its time
        recorded = capture(
            layers,
            started_ns=started_ns,
            scratch=request["scratch"],
            identity=who,
            limits=request["limits"],
        )
        _send_contents(job, recorded.contents)
        steps = (*recorded.steps, *blocked)
        notes = [*recorded.notes, *(plans.StepNote() for _ in blocked)]
        _send_plan(job, request, who, steps, notes, settings)
        _check_permission(job, steps, who)
    finally:
        for layer in layers:
            os.close(layer.upper)


def _open_layer(overlay: Overlay, stage: int, prefix: str) -> Optional[Layer]:
    """The upper layer of `overlay` as capture wants it; None where the script left no trace.

    An ordinary runner owns the upper directory yet may lack the right to read it (the host's
    mode is mirrored there); nobody uses the layer any more, so the right is added.
    """
    name = f"upper/{overlay.index}"
    mode = stat.S_IMODE(os.stat(name, dir_fd=stage, follow_symlinks=False).st_mode)
    expected = overlay.root_mode
    if os.geteuid() != 0 and mode & 0o700 != 0o700:
        if mode != expected:
            reason = "the script changed its mode so that it cannot be read"
            raise RunnerError("capture_failed", path=overlay.path, reason=reason)
        expected = mode | 0o700
        os.chmod(name, expected, dir_fd=stage)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
    upper = os.open(name, flags, dir_fd=stage)
    if _is_untouched(upper, expected, overlay):
        os.close(upper)
        return None
    return Layer(overlay.path, upper, prefix, expected, overlay.root_owner)


def _is_untouched(upper: int, mode: int, overlay: Overlay) -> bool:
    """Whether nothing was ever copied up into the layer, and its root is as it was made.

    Any change below needs an entry in the root.
    """
    status = os.fstat(upper)
    found = (stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid))
    if found != (mode, overlay.root_owner) or os.listdir(upper):
        return False
    return not any(not name.startswith(_OVERLAY_NAMES) for name in os.listxattr(upper))


def _check_permission(job: Channel, steps: Sequence[object], who: plans.Identity) -> None:
    wanted = [step for step in steps if isinstance(step, plans.FileStep) and not step.scratch]
    refusal = first_refusal(wanted, who) if wanted else None
    if refusal is not None:
        action, path, reason = refusal
        raise RunnerError(
            "not_permitted", identity=who.name, action=action, path=path, reason=reason
        )


def _send_contents(job: Channel, contents: Dict[str, Content]) -> None:
    """Small contents many to a frame, large ones as a descriptor each."""
    batch: List[List[object]] = []
    parts: List[bytes] = []
    size = 0

    def flush() -> None:
        nonlocal size
        if batch:
            job.hold({"event": "blobs", "blobs": batch}, b"".join(parts))
        batch.clear()
        parts.clear()
        size = 0

    for sha256, content in contents.items():
        if content.size > INLINE_BYTES:
            flush()
            descriptor = content.open()
            try:
                job.send(
                    {
                        "event": "blob",
                        "sha256": sha256,
                        "size": content.size,
                        "offset": content.offset,
                    },
                    descriptors=(descriptor,),
                )
            finally:
                os.close(descriptor)
            continue
        data = content.read()
        batch.append([sha256, len(data)])
        parts.append(data)
        size += len(data)
        if size >= BATCH_BYTES:
            flush()
    flush()


def _send_plan(
    job: Channel,
    request: Header,
    who: plans.Identity,
    steps: Sequence[object],
    notes: Sequence[plans.StepNote],
    settings: Settings,
) -> None:
    plan = plans.Plan(
        session=request["session"],
        target={"kind": "local", "host": machine()},
        identity=who,
        policy_version=request["policy_version"],
        on_failure=request["on_failure"],
        steps=tuple(steps),
    )
    encoded = plans.canonical(plan)
    digest = plans.digest(encoded)
    beside = json.dumps([asdict(note) for note in notes], separators=(",", ":")).encode("ascii")
    if len(encoded) + len(beside) > MAX_PAYLOAD_BYTES:
        raise RunnerError("limit_exceeded", name="plan_bytes", limit=MAX_PAYLOAD_BYTES)
    job.hold(
        {
            "event": "plan",
            "digest": digest,
            "seal": plans.seal(key(settings.state), request["session"], digest),
            "steps": len(steps),
            "canonical_size": len(encoded),
            "notes_size": len(beside),
        },
        encoded + beside,
    )
