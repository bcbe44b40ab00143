"""What policy would say of a call: the answer to `policy.explain`."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from shannotd.policy.commands import decide
from shannotd.policy.profiles import Profile
from shannotd.wire.decision import Explanation, ProgramCall

_ROOT = ("root", "0")
_ELSEWHERE = "/usr/bin"  # where a program is thought to be that this host does not have


def explain(argv: tuple[str, ...], cwd: str, profile: Profile) -> Explanation:
    """The verdict on `argv`, called in `cwd` by a script under `profile`.

    A name without a slash is looked for on the profile's PATH. Looks at the host's files, as
    far as this process may.

    :raises ValueError: `argv` or `cwd` cannot be those of a call.
    """
    if not argv or not argv[0]:
        raise ValueError("argv: names no program")
    if not cwd.startswith("/"):
        raise ValueError("cwd: must be an absolute path")
    if any("\0" in word for word in (*argv, cwd)):
        raise ValueError("argv: holds a zero byte")
    path = next((each for each in _places(argv[0], cwd, profile) if _is_program(each)), None)
    found = path is not None
    if path is None:
        path = os.path.normpath(os.path.join(cwd, argv[0]))  # noqa: PTH118 -- nothing is followed
        if "/" not in argv[0]:
            path = f"{_ELSEWHERE}/{argv[0]}"
    as_root = os.geteuid() == 0 if profile.run_as is None else profile.run_as in _ROOT
    call = ProgramCall(path, os.path.realpath(path), argv, cwd, as_root)
    return Explanation(profile.name, call, found, decide(call, profile))


def _places(name: str, cwd: str, profile: Profile) -> Iterator[str]:
    """Where a program called `name` may be, in the order of looking."""
    if "/" in name:
        yield os.path.normpath(os.path.join(cwd, name))  # noqa: PTH118
        return
    for directory in profile.environment.get("PATH", "").split(":"):
        if directory.startswith("/"):
            yield f"{directory.rstrip('/')}/{name}"


def _is_program(path: str) -> bool:
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(status.st_mode) and bool(status.st_mode & 0o111)
