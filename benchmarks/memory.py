"""The memory of the idle daemon, its runner, the zygote and one warm sandbox."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.bench import Bench
from benchmarks.figures import Row, mebibytes
from benchmarks.processes import (
    children_of,
    command_line,
    descendants,
    proportional_memory,
)


def measure(bench: Bench, _count: int) -> Iterator[Row]:
    """The proportional set size of each part."""
    bench.await_warm()
    daemon = bench.client.status().pid
    runner = _child(daemon, "shannotd.runner")
    zygote = _child(runner, "zygote.py")
    sandboxes = children_of(zygote)
    if not sandboxes:
        raise RuntimeError("no sandbox is warm")
    each = [
        sum(map(proportional_memory, [sandbox, *descendants(sandbox)])) for sandbox in sandboxes
    ]
    yield _row("daemon", proportional_memory(daemon))
    yield _row("runner", proportional_memory(runner))
    yield _row("zygote", proportional_memory(zygote))
    yield _row(f"one warm sandbox of {len(sandboxes)}", sum(each) // len(each))
    everything = sum(map(proportional_memory, [daemon, *descendants(daemon)]))
    yield _row("all together", everything)


def _row(what: str, size: int) -> Row:
    return Row(what=f"memory (PSS), idle: {what}", median=mebibytes(size))


def _child(parent: int, word: str) -> int:
    for process in children_of(parent):
        if word in command_line(process):
            return process
    raise RuntimeError(f"process {parent} has no child with {word} in its command line")
