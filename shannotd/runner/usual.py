"""What most jobs have in common: sandboxes are prepared for it, and a job may leave it out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, Optional, Tuple

from shannotd.runner.frames import Header
from shannotd.runner.names import Asked, Denied, Names

_LISTS = ("hide", "scratch", "deny", "inside", "always")


@dataclass(frozen=True)
class Usual:
    """The account, patterns of what is hidden and of what is scratch, and names of programs: those
    that policy may deny, with letters of options (see `Denied`), and of those on PATH the ones of
    which it need not be asked (`inside`) unless they are of `always`, too."""

    run_as: Optional[str] = None
    hide: Tuple[str, ...] = ()
    scratch: Tuple[str, ...] = ()
    deny: Tuple[Tuple[str, str], ...] = ()
    inside: Tuple[str, ...] = ()
    always: Tuple[str, ...] = ()

    # The same, ready to be asked for a name.
    denied: Denied = field(init=False, compare=False, repr=False)
    asked: Asked = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "denied", Denied(self.deny))
        object.__setattr__(self, "asked", Asked(Names(self.inside), Names(self.always)))

    @classmethod
    def decode(cls, header: Header) -> Usual:
        """What `encode` gave, and the daemon gives (frames.py)."""
        return cls(header["run_as"], **_lists(header))

    def encode(self) -> Header:
        """What `decode` takes."""
        return {"run_as": self.run_as, **{name: list(getattr(self, name)) for name in _LISTS}}

    def complete(self, request: Header) -> Header:
        """A job's request with what it leaves out."""
        return {**{name: getattr(self, name) for name in _LISTS}, **request}

    def of(self, request: Header) -> Usual:
        """This, with what a complete request has instead."""
        own = {name: request[name] for name in _LISTS}
        if all(value is getattr(self, name) for name, value in own.items()):
            return self
        return Usual(self.run_as, **_lists(own))


def _lists(header: Header) -> Dict[str, Any]:
    found: Dict[str, Any] = {name: tuple(map(str, header[name])) for name in _LISTS}
    found["deny"] = tuple((str(name), str(letters)) for name, letters in header["deny"])
    return found


NOTHING = Usual()
