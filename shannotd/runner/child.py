"""Work that a child of this process does, because it becomes somebody else or may go wrong."""

from __future__ import annotations

import os
from typing import Callable, Tuple


def in_child(work: Callable[[], str]) -> Tuple[str, int]:
    """What `work` returns in a child, in ASCII, and the child's wait status.

    Where `work` raises something, or the child is killed, that is nothing and not 0.
    """
    answer, question = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(answer)
            with open(question, "w", encoding="ascii") as pipe:
                pipe.write(work())
            status = 0
        finally:
            os._exit(status)
    os.close(question)
    with open(answer, encoding="ascii") as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    return text, status
