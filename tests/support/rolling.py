"""A process of the tests' own that makes rollbacks, and the daemon's side of its channel."""

from __future__ import annotations

import json
import os
import socket
import traceback
from collections.abc import Collection, Mapping
from pathlib import Path

from shannotd.runner import rolling_back
from shannotd.runner.frames import Channel
from shannotd.runner.plan import Identity
from tests.support.runner import Decide, Outcome, collect, review


def roll_back(
    state: Path,
    of: str,
    *,
    key: bytes,
    session: str = "rollback",
    force: Collection[str] = (),
    force_all: bool = False,
    decide: Decide | None = None,
    become: Identity | None = None,
    header: Mapping[str, object] | None = None,
) -> Outcome:
    """Have a plan made that takes the session `of` back.

    Commands wait for review unless `decide` says otherwise. The process is root's, or `become`'s.
    """
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            ours.close()
            if become is not None and os.geteuid() == 0:
                os.setgroups(list(become.groups))
                os.setresgid(become.gid, become.gid, become.gid)
                os.setresuid(become.uid, become.uid, become.uid)
            rolling_back.serve(Channel(theirs), key=key, state=str(state))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    theirs.close()
    try:
        with Channel(ours) as job:
            request = {"op": "rollback", "session": session, "of": of, "policy_version": "1"}
            request = {**request, "force_all": force_all, **(header or {})}
            job.send(request, json.dumps(list(force)).encode())
            return collect(session, job, decide or (lambda call: review()))
    finally:
        _, status = os.waitpid(child, 0)
        assert status == 0
