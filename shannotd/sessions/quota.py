"""How much one submitter may ask for."""

from __future__ import annotations

import time

from shannotd.config import DaemonSettings
from shannotd.sessions.registry import Registry
from shannotd.wire.errors import TooManySessions
from shannotd.wire.session import State

_MINUTE = 60.0


class Quota:
    """Counts sessions and submissions per uid."""

    def __init__(self, settings: DaemonSettings) -> None:
        self._settings = settings
        self._tokens: dict[int, tuple[float, float]] = {}  # uid: tokens left, and when

    def take(self, uid: int, registry: Registry) -> None:
        """Count one submission of `uid`.

        :raises TooManySessions: it is one too many.
        """
        settings = self._settings
        running = registry.count(uid, State.RUNNING)
        if running >= settings.max_running:
            raise TooManySessions(count=running, kind="running sessions")
        pending = registry.count(uid, State.PENDING)
        if pending >= settings.max_pending:
            raise TooManySessions(count=pending, kind="pending sessions")
        self._take_token(uid)

    def _take_token(self, uid: int) -> None:
        most = float(self._settings.max_submissions_per_minute)
        now = time.monotonic()
        left, since = self._tokens.get(uid, (most, now))
        left = min(most, left + (now - since) * most / _MINUTE)
        if left < 1:
            raise TooManySessions(
                count=self._settings.max_submissions_per_minute, kind="new sessions (in one minute)"
            )
        self._tokens[uid] = (left - 1, now)
