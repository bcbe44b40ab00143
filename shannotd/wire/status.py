"""How the daemon is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DaemonStatus:
    """What `daemon.status` answers.

    `bus` is the bus that the daemon would be on (`system` or `session`), `bus_missing` why it is
    not; `polkit_missing` why nobody is asked by polkit. Each is null where it works.
    """

    version: str
    mode: str
    pid: int
    uid: int
    started_at: float
    builder: str
    pool_ready: int
    running: int
    pending: int
    roles: tuple[str, ...]
    store: str
    bus: str | None = None
    bus_missing: str | None = None
    polkit_missing: str | None = None
