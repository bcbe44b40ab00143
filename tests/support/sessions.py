"""What tests ask a daemon about its sessions."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from tests.support.service import Caller

PATHS = ["/srv/example/a", "/srv/example/b"]


async def amend(caller: Caller, session: Any, **changes: Any) -> Any:
    """The session that comes of changes of another's plan."""
    return await caller.call("sessions.amend", **asked(session, **changes))


def asked(session: Any, **changes: Any) -> dict[str, Any]:
    """The parameters; edits as a map."""
    edits = [{"index": index, "content": data} for index, data in changes.pop("edits", {}).items()]
    return {"id": session["id"], "digest": session["digest"], "edits": edits, **changes}


async def get(caller: Caller, session: Any) -> Any:
    """The session as it is now."""
    return await caller.call("sessions.get", id=session["id"])


def referring(directory: Path) -> set[str]:
    """The sessions that refer to contents in the store."""
    database = sqlite3.connect(directory / "state" / "store" / "store.sqlite")
    found = {session for (session,) in database.execute("SELECT session FROM session_blobs")}
    database.close()
    return found


async def execute(caller: Caller, session: Any) -> Any:
    """Approve a session, and wait until it is over."""
    await caller.call("sessions.approve", id=session["id"], digest=session["digest"])
    return await caller.call("sessions.wait", id=session["id"], states=[])


async def executed(caller: Caller, *paths: str, **more: Any) -> Any:
    """A session whose plan was applied."""
    return await execute(caller, await caller.submit(("files", list(paths or PATHS)), **more))


async def roll_back(caller: Caller, session: Any, **more: Any) -> Any:
    """The session that takes another one back."""
    return (await caller.call("sessions.rollback", id=session["id"], **more))["session"]


async def states(caller: Caller, *sessions: Any) -> list[str]:
    """The states that they are in now."""
    return [(await get(caller, session))["state"] for session in sessions]


async def events(caller: Caller, session: Any) -> list[Any]:
    """What the audit log says of a session."""
    return list(await caller.call("audit.tail", session=session["id"], limit=100))
