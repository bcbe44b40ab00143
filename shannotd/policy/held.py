"""Files that are held open for writing while a plan puts others in their place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shannotd.wire.decision import Risk
from shannotd.wire.step import Step
from shannotd.wire.text import visible


@dataclass(frozen=True)
class Holder:
    """A process that holds a file open for writing, and the program that it runs."""

    pid: int
    program: str


Held = Mapping[int, Sequence[Holder]]  # by the index of the step

HELD = "open for writing"  # what every reason of this kind says
_NAMED = 3  # processes that are named; others are counted


def held_finding(step: Step, holders: Sequence[Holder]) -> tuple[Risk, str]:
    """What becomes of what `holders` still write."""
    tree = step.before is not None and step.before.type == "directory"
    what = "files in it" if tree else "it"
    old = "the deleted" if step.change == "delete" else "the old"
    return (
        Risk.DANGER,
        f"{in_words(holders)} {_has(holders)} {what} {HELD}: what is written to"
        f" {old} {'files' if tree else 'file'} from then on is lost",
    )


def held_at_apply(holders: Sequence[Holder]) -> str:
    """The same, when it turned up after the review only."""
    return f"when it was applied, {in_words(holders)} had it {HELD}, which the review did not show"


def in_words(holders: Sequence[Holder]) -> str:
    """`process 812 (/usr/sbin/nginx), process 900 (/bin/x) and 2 others`."""
    named = [f"process {one.pid} ({visible(one.program)})" for one in holders[:_NAMED]]
    more = len(holders) - len(named)
    if more:
        named.append("1 other" if more == 1 else f"{more} others")
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"


def _has(holders: Sequence[Holder]) -> str:
    return "has" if len(holders) == 1 else "have"
