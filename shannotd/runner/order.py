"""From a job of the daemon to what the sandbox's init is told to do."""

from __future__ import annotations

import os
from typing import Dict

from shannotd.runner.frames import Header
from shannotd.runner.plan import Identity
from shannotd.runner.shims import PATH


def order_of(request: Header, who: Identity, account: Dict[str, str]) -> Header:
    """The message for the init, and through it for the process that becomes the script."""
    return {
        "kind": request["kind"],
        "name": file_name(request["path"] or request["name"]),
        "shown": request["path"] or request["name"],
        "path": request["path"],
        "arguments": request["arguments"],
        "script_size": request["script_size"],
        "stdin_size": request["stdin_size"],
        "cwd": request["cwd"],
        "identity": {**who.__dict__, "groups": list(who.groups)},
        "environment": environment(request, account),
        "limits": request["limits"],
    }


def environment(request: Header, account: Dict[str, str]) -> Dict[str, str]:
    """The clean base that every script starts with, and the profile's additions."""
    base = {
        "PATH": PATH,
        "LANG": "C.UTF-8",
        **account,
        **request["environment"],
        "PWD": request["cwd"],
        "SHANNOT_SANDBOX": "1",
        "SHANNOT_SESSION": request["session"],
    }
    return {name: str(value) for name, value in base.items()}


def file_name(shown: str) -> str:
    """What the submitted script is called in its directory: its own name where that can be."""
    name = os.path.basename(shown)
    try:
        usable = 0 < len(os.fsencode(name)) <= 255
    except UnicodeEncodeError:
        usable = False
    return name if usable and name not in (".", "..") and "\0" not in name else "script"
