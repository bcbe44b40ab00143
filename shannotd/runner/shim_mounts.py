"""What stands in a sandbox for its shims: their tree, what they run, and the real programs.

In this order: `put_on_stage` with the tree opened before the stage covers the way to it, the
sandbox's overlays, and `fill` when the sandbox's own directory is there.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import List, Sequence

from shannotd.runner import kernel
from shannotd.runner.mounts import PROTECTED, ROOT, SHIMS, STAGE, escape
from shannotd.runner.shims import LIBRARY, REAL, ancestors

_EMPTY = STAGE + "/empty"


@dataclass(frozen=True)
class RealDirectory:
    """A read-only overlay of the host's PATH directory `path`, without shims, below REAL.

    Never a bind mount of it (mounts.File says why); the kernel wants a second layer.
    """

    path: str
    user: bool

    @property
    def place(self) -> str:
        """Where it is in the sandbox."""
        return REAL + self.path

    def execute(self) -> None:
        """Mount it."""
        kind = "userxattr" if self.user else "redirect_dir=nofollow,metacopy=off,index=off"
        options = f"lowerdir={escape(self.path)}:{_EMPTY},{kind}"
        flags = PROTECTED | kernel.MS_RDONLY
        kernel.mount("shannot", ROOT + self.place, "overlay", flags, options)


def put_on_stage(shelf: int) -> None:
    """Have the tree in the directory `shelf` where overlays find it; the host's way is covered."""
    os.mkdir(SHIMS)
    kernel.mount(f"/proc/self/fd/{shelf}/tree", SHIMS, None, kernel.MS_BIND)


def fill(shelf: int, directories: Sequence[RealDirectory]) -> None:
    """Put what shims run and the real programs into the sandbox's own directory.

    Beside a PATH directory everything is a link to what the sandbox has there: programs look for
    their files by the way from their own place.
    """
    os.mkdir(_EMPTY)
    shutil.copytree(f"/proc/self/fd/{shelf}/library", ROOT + LIBRARY)
    paths = [directory.path for directory in directories]
    parents: List[str] = ancestors(paths)
    for path in ("", *parents):
        os.mkdir(ROOT + REAL + path, 0o755)
    for path in ("", *(path for path in parents if path not in paths)):
        _link_others(path, parents, paths)
    for directory in directories:
        directory.execute()


def _link_others(path: str, parents: Sequence[str], paths: Sequence[str]) -> None:
    for name in os.listdir(path or "/"):
        beside = f"{path}/{name}"
        if beside in parents:
            continue
        place = os.path.realpath(beside) if os.path.islink(beside) else beside
        os.symlink(REAL + place if place in paths else beside, ROOT + REAL + beside)
