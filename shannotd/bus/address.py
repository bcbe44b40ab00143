"""Where the bus is that a daemon is on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_SYSTEM_BUS = "unix:path=/var/run/dbus/system_bus_socket"  # of the specification


def bus_address(embedded: bool, environment: Mapping[str, str] = os.environ) -> str | None:
    """Where the bus is: the session's for an embedded daemon, else the system's; None without one.

    No bus is started for us, as D-Bus libraries do where they find none.
    """
    name = "DBUS_SESSION_BUS_ADDRESS" if embedded else "DBUS_SYSTEM_BUS_ADDRESS"
    if environment.get(name):
        return environment[name]
    if not embedded:
        path = Path(_SYSTEM_BUS.removeprefix("unix:path="))
        return _SYSTEM_BUS if path.exists() else None
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    path = Path(runtime, "bus")
    return f"unix:path={path}" if runtime.startswith("/") and path.exists() else None
