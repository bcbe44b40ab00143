"""Colours for terminals that show them."""

from __future__ import annotations

from typing import NamedTuple

from shannotd.wire.decision import Risk
from shannotd.wire.session import State

_RESET = "\x1b[0m"
_ROLES = {
    "title": "\x1b[1m",
    "faint": "\x1b[2m",
    "added": "\x1b[32m",
    "removed": "\x1b[31m",
    "hunk": "\x1b[36m",
    "good": "\x1b[32m",
    "warning": "\x1b[33m",
    "bad": "\x1b[1;31m",
}
_RISKS = {
    Risk.SAFE: "good",
    Risk.CAUTION: "warning",
    Risk.UNKNOWN: "warning",
    Risk.DANGER: "bad",
}
_STATES = {
    State.PENDING: "warning",
    State.EXECUTED: "good",
    State.FAILED: "bad",
    State.STALE: "bad",
}


class Style(NamedTuple):
    """How text is laid out: with colours or without, folded at `width` or not at all."""

    colour: bool = False
    width: int | None = None

    def paint(self, text: str, role: str) -> str:
        """`text`, which must be safe already, in the colour of `role`."""
        if not self.colour or not text or role not in _ROLES:
            return text
        return f"{_ROLES[role]}{text}{_RESET}"

    def risk(self, risk: Risk) -> str:
        """The risk's word in its colour."""
        return self.paint(risk.value, _RISKS[risk])

    def state(self, state: State) -> str:
        """The state's word in its colour."""
        return self.paint(state.value, _STATES.get(state, ""))


PLAIN = Style()
