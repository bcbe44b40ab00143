"""Removing what a batch displaced, several names at a time.

A filesystem may wait for its disk at each file whose blocks it frees (ext4 mounted with
`discard` and without a journal does): one file after the other took three times as long.
"""

from __future__ import annotations

import threading
from typing import List, Sequence, Tuple

from shannotd.runner.directories import Directories, remove
from shannotd.runner.tree import MountInside

_THREADS = 8
_NAMES_EACH = 32  # fewer are not worth a thread


def remove_all(names: Sequence[Tuple[str, str]]) -> List[str]:
    """Remove every name in its directory, given as the directory's path and the name.

    Returns the paths of those that could not be removed, each with the reason.
    """
    left: List[str] = []
    count = max(1, min(_THREADS, len(names) // _NAMES_EACH))
    threads: List[threading.Thread] = []
    mine = list(names[::count])
    for first in range(1, count):
        thread = threading.Thread(target=_remove_each, args=(names[first::count], left))
        try:
            thread.start()
        except RuntimeError:  # No more threads for this account (RLIMIT_NPROC, pids.max).
            mine += names[first::count]
        else:
            threads.append(thread)
    _remove_each(mine, left)
    for thread in threads:
        thread.join()
    return sorted(left)


def _remove_each(names: Sequence[Tuple[str, str]], left: List[str]) -> None:
    with Directories() as directories:
        for path, name in names:
            try:
                directory, _ = directories.get(path)
                remove(directory, name, path)
            except (OSError, MountInside) as error:
                left.append(told(f"{path}/{name}", error))


def told(path: str, error: Exception) -> str:
    """A path that is left as it is, and why."""
    if isinstance(error, MountInside):
        return f"{path} (something is mounted at {error})"
    reason = error.strerror if isinstance(error, OSError) else None
    return f"{path} ({reason or error})"
