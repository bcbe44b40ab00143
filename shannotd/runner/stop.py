"""Being asked to end by a signal: an apply does so between two steps, and puts back."""

from __future__ import annotations

import signal
from typing import Optional

from shannotd.runner.workspace import Action, apply_failed

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stop:
    """Whether this process was asked to end.

    A signal's handler only takes note: raised from there, an error could come between a
    change and the note of how to undo it.
    """

    def __init__(self) -> None:
        self._asked: Optional[signal.Signals] = None

    def listen(self) -> None:
        """Take note of signals from now on, in place of ending at once."""
        for number in _SIGNALS:
            signal.signal(number, self._note)

    def check(self, action: Action) -> None:
        """To be called before each thing that is done for `action`.

        :raises RunnerError: `apply_failed`: this process was asked to end.
        """
        if self._asked is not None:
            reason = f"the apply was asked to end by {self._asked.name}"
            raise apply_failed(action.index, action.step.path, reason)

    def _note(self, number: int, _: object) -> None:
        self._asked = signal.Signals(number)
