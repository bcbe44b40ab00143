"""What a plan deletes, as a tree of directories with counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from shannotctl.render.amounts import number, size
from shannotctl.render.command import quoted
from shannotctl.review.spans import Line, Span, folded
from shannotd.wire.step import Step
from shannotd.wire.text import visible

_DEEPEST_INDENT = 12


@dataclass
class _Node:
    children: dict[str, _Node] = field(default_factory=dict)
    index: int | None = None
    entries: int = 0
    size: int = 0


def deleted(steps: Sequence[Step]) -> list[int]:
    """The indexes of the steps that delete something, scratch apart."""
    return [
        index for index, step in enumerate(steps) if step.change == "delete" and not step.scratch
    ]


def tree_lines(steps: Sequence[Step], width: int) -> Iterator[Line]:
    """Every deleted path below its directories, these with the sum of what goes in them."""
    root = _Node()
    for index in deleted(steps):
        step = steps[index]
        entries, amount = _amount(step)
        node = root
        node.entries, node.size = node.entries + entries, node.size + amount
        for name in (step.path or "?").strip("/").split("/"):
            node = node.children.setdefault(name, _Node())
            node.entries, node.size = node.entries + entries, node.size + amount
        node.index = index
    # No recursion: paths may be thousands of directories deep.
    waiting = [(root, "/", 0)]
    while waiting:
        node, name, depth = waiting.pop()
        # A directory in which just one thing is stands on that thing's line.
        while len(node.children) == 1 and node.index is None:
            ((child, inner),) = node.children.items()
            name = f"{name.rstrip('/')}/{child}"
            node = inner
        yield from folded(_line(node, name, depth), width)
        waiting += [(inner, child, depth + 1) for child, inner in reversed(node.children.items())]


def total_text(steps: Sequence[Step]) -> str:
    """`14 entries, 3.2 MiB`."""
    amounts = [_amount(steps[index]) for index in deleted(steps)]
    entries = number(sum(entries for entries, _ in amounts), "entry", "entries")
    return f"{entries}, {size(sum(amount for _, amount in amounts))}"


def _amount(step: Step) -> tuple[int, int]:
    before = step.before
    if before is None:
        return 1, 0
    if before.tree is not None:
        return before.tree.entries, before.tree.size
    return 1, before.size or 0


def _shown(name: str) -> str:
    """In quotes where a blank in it would hide where it ends."""
    return quoted(name) if " " in name else visible(name)


def _line(node: _Node, name: str, depth: int) -> Line:
    indent = Span("faint", "  " * min(depth, _DEEPEST_INDENT))
    amount = f"{number(node.entries, 'entry', 'entries')}, {size(node.size)}"
    if node.index is None:
        directory = "/" if name == "/" else _shown(f"{name}/")
        return (indent, Span("", directory), Span("faint", f"  {amount}"))
    return (
        indent,
        Span("removed", _shown(name)),
        Span("faint", f"  step {node.index + 1}, {amount}"),
    )
