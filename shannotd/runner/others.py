"""Files that a command is given and that somebody else can change until it runs.

The plan says nothing of them: what the command reads there is what is there when its turn comes.
"""

from __future__ import annotations

import os
import stat
from itertools import islice
from typing import Dict, Iterator, List, Optional, Sequence, Set, Tuple

from shannotd.runner.needed import argument_paths, runs
from shannotd.runner.plan import CommandStep, FileStep, Identity

_MOST = 8  # named of one command
_ANYBODY = 0o002


def others(steps: Sequence[object], identity: Identity) -> Dict[int, List[str]]:
    """What commands that are to run are given, and an account can change that is neither root nor
    the plan's: paths by the index of the step.

    Who owns a file or a directory on the way can change what is there, and so can anybody where
    everybody may write. (Groups may be meant to: theirs do not count.) A path is what is there
    on the host, or an earlier step makes.
    """
    trusted = (0, identity.uid)
    found: Dict[int, List[str]] = {}
    known: Dict[str, bool] = {}
    made: Set[str] = set()

    def is_others(path: str) -> bool:
        if path not in known:
            known[path] = _is_others(path, trusted)
        return known[path]

    for index, step in enumerate(steps):
        if isinstance(step, FileStep):
            made.add(step.path)
        elif isinstance(step, CommandStep) and runs(step):
            given = (path for path in argument_paths(step) if path in made or os.path.lexists(path))
            changeable = (path for path in given if any(map(is_others, _way(path))))
            paths = list(islice(dict.fromkeys(changeable), _MOST))
            if paths:
                found[index] = paths
    return found


def _way(path: str) -> Iterator[str]:
    """The directories down to `path`, and `path`, and where links lead."""
    seen: Dict[str, None] = {}
    for place in (path, os.path.realpath(path)):
        names = place.strip("/").split("/")
        seen.update(dict.fromkeys("/" + "/".join(names[:end]) for end in range(len(names) + 1)))
    yield from seen


def _is_others(path: str, trusted: Tuple[int, int]) -> bool:
    status = _status(path)
    if status is None:
        return False
    if status.st_uid not in trusted:
        return True
    if stat.S_ISLNK(status.st_mode) or not status.st_mode & _ANYBODY:
        return False
    # In a sticky directory each name is its owner's.
    return stat.S_ISREG(status.st_mode) or (
        stat.S_ISDIR(status.st_mode) and not status.st_mode & stat.S_ISVTX
    )


def _status(path: str) -> Optional[os.stat_result]:
    try:
        return os.lstat(path)
    except OSError:
        return None
