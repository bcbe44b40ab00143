"""The host's directories beside those of an upper layer, on the way through it."""

from __future__ import annotations

from typing import List, Optional

from shannotd.runner import filesystem
from shannotd.runner.filesystem import Descent


class Host:
    """The host's directory beside the one of the upper layer that is being walked."""

    def __init__(self, mountpoint: str) -> None:
        self._ways: List[Optional[Descent]] = [Descent(filesystem.open_directory(mountpoint))]
        self._jumps: List[bool] = []

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        for way in self._ways:
            if way is not None:
                way.__exit__()

    @property
    def current(self) -> Optional[int]:
        """The host's directory here, None where it has none; not the caller's to close."""
        way = self._ways[-1]
        return None if way is None else way.current

    def enter(self, descriptor: int) -> None:
        """Go down to `descriptor`, a directory in the current one."""
        way = self._ways[-1]
        assert way is not None
        way.enter(descriptor)
        self._jumps.append(False)

    def jump(self, descriptor: Optional[int]) -> None:
        """Go to a directory anywhere, or to where the host has none."""
        self._ways.append(None if descriptor is None else Descent(descriptor))
        self._jumps.append(True)

    def leave(self) -> None:
        """Go back to where the last `enter` or `jump` was made."""
        if self._jumps.pop():
            way = self._ways.pop()
            if way is not None:
                way.__exit__()
        else:
            way = self._ways[-1]
            assert way is not None
            way.leave()
