"""The environment of observed programs: fixed, but for harmless words that a script may say."""

from __future__ import annotations

import re
from typing import Dict, Mapping

from shannotd.runner import observe_run

_BASE = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/nonexistent",
    "TMPDIR": observe_run.TEMPORARY,
}
_LOCALE = r"[A-Za-z_]{1,16}(\.[A-Za-z0-9-]{1,16})?"
# What a script may say of how it wants to be answered: never a path, nothing to be looked up but
# names of the host's own locales, zones and terminals.
_ALLOWED = {
    "LANG": _LOCALE,
    **dict.fromkeys(("LC_ALL", "LC_COLLATE", "LC_CTYPE", "LC_MESSAGES", "LC_TIME"), _LOCALE),
    "TZ": r"[A-Za-z][A-Za-z0-9_+-]{0,31}(/[A-Za-z][A-Za-z0-9_+-]{0,31}){0,2}",
    "TERM": r"[A-Za-z0-9][A-Za-z0-9+-]{0,31}",
    "COLUMNS": r"[0-9]{1,5}",
    "LINES": r"[0-9]{1,5}",
    "NO_COLOR": r"[0-9a-z]{0,8}",
    "BLOCK_SIZE": r"[0-9A-Za-z']{1,16}",
    "POSIXLY_CORRECT": r"[0-9a-z]{0,8}",
}


def environment(claimed: Mapping[str, str]) -> Dict[str, str]:
    """The fixed environment of observed programs and the harmless part of a script's own."""
    taken = {
        name: claimed[name]
        for name, pattern in _ALLOWED.items()
        if name in claimed and re.fullmatch(pattern, claimed[name])
    }
    return {**_BASE, **taken}
