"""The upper layers of a sandbox, as they are before any script."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Dict, Mapping, Optional, Sequence

from shannotd.runner import filesystem
from shannotd.runner.tree import read_xattrs

if TYPE_CHECKING:
    from shannotd.runner.mounts import Overlay

# So many are held open: a host may have very many mounts.
_MOST = 64


class Uppers:
    """Upper layers, opened while nobody waits: to find one takes as long as to look into it.

    Owns their descriptors. `given` are the attributes (in hex) with which their roots were made,
    the host's where they are copied, by the layers' index; most have none.
    """

    def __init__(self, stage: int, overlays: Sequence[Overlay]) -> None:
        """`stage` is the directory that has them."""
        self._descriptors: Dict[int, int] = {}
        self.given: Dict[int, Mapping[str, str]] = {}
        for overlay in overlays:
            if not overlay.user:
                self._read(stage, overlay)
            if len(self._descriptors) < _MOST:
                try:
                    self._descriptors[overlay.index] = open_upper(stage, overlay)
                except PermissionError:  # the host's mode is mirrored there
                    pass

    def _read(self, stage: int, overlay: Overlay) -> None:
        root = os.open(f"upper/{overlay.index}", filesystem.O_DIRECTORY_PATH, dir_fd=stage)
        try:
            xattrs = read_xattrs(filesystem.by_descriptor(root))
        finally:
            os.close(root)
        if xattrs:
            self.given[overlay.index] = xattrs

    def rewound(self, overlay: Overlay) -> Optional[int]:
        """A descriptor of that layer; None if it is not held open.

        It is listed as it is then: else some filesystems leave out what came since it was opened
        (rewinddir(3)).
        """
        descriptor = self._descriptors.get(overlay.index)
        if descriptor is not None:
            os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

    def close(self) -> None:
        """Close all."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])


def open_upper(stage: int, overlay: Overlay) -> int:
    """A descriptor of the upper layer of `overlay`, the caller's.

    :raises OSError: it cannot be opened.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(f"upper/{overlay.index}", flags, dir_fd=stage)
