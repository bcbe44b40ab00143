"""What takes an applied plan back: the reverse of its file steps, and between them the commands
that make up for its own, in the order in which they are to be done. Pure.

A command that makes up for another comes before the files which that one found are restored; one
that is just to be repeated (its `undo` is itself) comes after them, to take up what was restored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from shannotd.runner.outcome import parts
from shannotd.runner.plan import CommandStep, FileStep, Plan
from shannotd.runner.reverse import reverse
from shannotd.runner.saved import Saved

NO_RULE = "no rule says what makes up for it"
NOT_AS_ASSUMED = "it did not end as it should have: what it did is not known"
IN_DOUBT = "how far it came is not known"
NO_INPUT = "it would need its standard input once more"

# With the index, in the plan that is taken back, of the step that it is for. A command is that
# step itself: its `undo` is what is to be run.
Item = Tuple[int, Union[FileStep, CommandStep]]


@dataclass(frozen=True)
class Staying:
    """A command of which what it did stays, by its index in the plan that is taken back; why."""

    index: int
    reason: str


@dataclass(frozen=True)
class Reversal:
    """What is to be done, in order, and what stays as it is."""

    items: Sequence[Item]
    staying: Sequence[Staying]


def reversal(
    found: Plan,
    results: Mapping[int, str],
    endings: Mapping[int, Optional[Mapping[str, Any]]],
    saved: Dict[int, Saved],
) -> Reversal:
    """What takes back the steps of `found` that came to these `results`.

    `endings` tells how each command ended that was begun, `saved` is what the checkpoint has.

    :raises reverse.Irreversible: the checkpoint lacks what a step replaced.
    """
    items: List[Item] = []
    staying: List[Staying] = []
    repeated: List[Item] = []
    for part in reversed(parts(found)):
        done = [
            (index, step)
            for index, step in part
            if isinstance(step, FileStep) and results.get(index) == "done"
        ]
        items += reverse(done, saved)
        if done:
            items += reversed(repeated)
            repeated = []
        for index, step in part:
            if not isinstance(step, CommandStep) or not _ran(index, endings):
                continue
            reason = _obstacle(step, results.get(index))
            if reason is not None:
                staying.append(Staying(index, reason))
            elif _is_repeated(step):
                repeated.append((index, step))
            else:
                items.append((index, step))
    return Reversal([*items, *reversed(repeated)], staying[::-1])


def _ran(index: int, endings: Mapping[int, Optional[Mapping[str, Any]]]) -> bool:
    if index not in endings:
        return False
    ending = endings[index]
    return ending is None or ending.get("stopped") != "not_started"


def _is_repeated(step: CommandStep) -> bool:
    """Whether what makes up for a command is the same once more; it has a path in place of the word
    that the script called it by."""
    return step.undo is not None and step.undo[1:] == step.argv[1:]


def _obstacle(step: CommandStep, result: Optional[str]) -> Optional[str]:
    """Why nothing makes up for a command that ran; None if something does."""
    if result == "in_doubt":
        return IN_DOUBT
    if result != "done":
        return NOT_AS_ASSUMED
    if step.undo is None:
        return NO_RULE
    if _is_repeated(step) and step.stdin is not None:
        return NO_INPUT
    return None
