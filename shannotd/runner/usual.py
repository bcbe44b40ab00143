"""What most jobs have in common: sandboxes are prepared for it, and a job may leave it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

from shannotd.runner.frames import Header

_LISTS = ("hide", "scratch", "deny", "shims")


@dataclass(frozen=True)
class Usual:
    """The account, patterns of what is hidden and of what is scratch, the names of programs that
    policy may deny, and of those that have a shim."""

    run_as: Optional[str] = None
    hide: Tuple[str, ...] = ()
    scratch: Tuple[str, ...] = ()
    deny: Tuple[str, ...] = ()
    shims: Tuple[str, ...] = ()

    @classmethod
    def decode(cls, header: Header) -> Usual:
        """What `encode` gave, and the daemon gives (frames.py)."""
        return cls(header["run_as"], *(tuple(map(str, header[name])) for name in _LISTS))

    def encode(self) -> Header:
        """What `decode` takes."""
        return {"run_as": self.run_as, **{name: list(getattr(self, name)) for name in _LISTS}}

    def complete(self, request: Header) -> Header:
        """A job's request with what it leaves out."""
        return {**{name: getattr(self, name) for name in _LISTS}, **request}


NOTHING = Usual()
