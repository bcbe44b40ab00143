"""Calls of programs as text, for the tests of policy."""

from __future__ import annotations

import shlex

from shannotd.policy.commands import decide
from shannotd.policy.profiles import Profile, builtin_profiles, merge
from shannotd.wire.decision import ProgramCall, Verdict

DEFAULT = builtin_profiles()["default"]


def profile(*, deny: tuple[str, ...] = (), approve: tuple[str, ...] = ()) -> Profile:
    """The default profile with these patterns."""
    return merge(DEFAULT, {"always_deny": list(deny), "auto_approve": list(approve)})


def call(text: str, *, cwd: str = "/root", as_root: bool = True, program: str = "") -> ProgramCall:
    """The call that `text` writes; a name is a program in /usr/bin."""
    words = tuple(shlex.split(text))
    path = words[0] if words[0].startswith("/") else f"/usr/bin/{words[0]}"
    return ProgramCall(path, program or path, words, cwd, as_root)


def verdict(
    text: str, under: Profile = DEFAULT, *, cwd: str = "/root", as_root: bool = True
) -> Verdict:
    """What policy says of `text`."""
    return decide(call(text, cwd=cwd, as_root=as_root), under)
