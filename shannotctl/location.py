"""Where the daemon's socket is, and where an embedded daemon keeps its state."""

# pathlib would cost every start of the program several milliseconds.
# ruff: noqa: PTH111, PTH116, PTH118
from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import NamedTuple

SERVICE_SOCKET = "/run/shannot/shannotd.sock"


class Location(NamedTuple):
    """A socket's path, and whether a daemon may be started there on demand."""

    path: str
    embedded: bool


def find_socket(
    environment: Mapping[str, str] = os.environ, service_socket: str = SERVICE_SOCKET
) -> Location:
    """The socket to use: `$SHANNOT_SOCKET`, else the system service's, else one's own daemon's."""
    chosen = environment.get("SHANNOT_SOCKET")
    if chosen:
        return Location(chosen, embedded=False)
    if os.path.lexists(service_socket):
        return Location(service_socket, embedded=False)
    return Location(_embedded_socket(environment), embedded=True)


def state_directory(environment: Mapping[str, str] = os.environ) -> str:
    """Where the embedded daemon keeps sessions, audit log and its own log."""
    base = environment.get("XDG_STATE_HOME", "")
    if not base.startswith("/"):
        base = os.path.join(_home(environment), ".local", "state")
    return os.path.join(base, "shannot")


def _embedded_socket(environment: Mapping[str, str]) -> str:
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and _is_own_directory(runtime):
        return os.path.join(runtime, "shannot", "shannotd.sock")
    return os.path.join(state_directory(environment), "run", "shannotd.sock")


def _is_own_directory(path: str) -> bool:
    # After `su` or `sudo -E` the variable still names the other user's directory.
    try:
        status = os.stat(path)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def _home(environment: Mapping[str, str]) -> str:
    home = environment.get("HOME", "")
    return home if home.startswith("/") else os.path.expanduser("~")
