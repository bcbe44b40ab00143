"""How an apply ends: what became of every step, what is taken back, and what the journal says of
it last. The same for an apply that failed and for one that was cut short."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

from shannotd.runner.batch import Setting
from shannotd.runner.frames import Header, RunnerError
from shannotd.runner.plan import CommandStep, FileStep, Plan
from shannotd.runner.reverse import kept_by_other_names
from shannotd.runner.rollback import take_back
from shannotd.runner.wording import numbers
from shannotd.runner.workspace import as_runner_error

Part = Sequence[Tuple[int, Union[FileStep, CommandStep]]]


@dataclass(frozen=True)
class Outcome:
    """What became of each step by its index (done, failed, stale, skipped, undone, in_doubt), and
    what stopped the apply, if anything did."""

    results: Mapping[int, str]
    failure: Optional[RunnerError] = None

    def encode(self) -> Dict[str, object]:
        """As the journal holds it."""
        told = None
        if self.failure is not None:
            told = {"code": self.failure.code, "details": self.failure.details}
        return {"results": sorted(self.results.items()), "failure": told}

    @classmethod
    def decode(cls, value: Mapping[str, Any]) -> Outcome:
        """What `encode` made this of."""
        failure = value["failure"]
        return cls(
            dict(value["results"]),
            None if failure is None else RunnerError(failure["code"], **failure["details"]),
        )


def parts(found: Plan) -> List[Part]:
    """What is to be done, in order: batches of file steps, and single commands between them.

    Only a command that waited for the review is a barrier: what comes before it is applied
    before it runs. What was observed has run, what was denied never does.
    """
    done: List[Part] = []
    batch: List[Tuple[int, FileStep]] = []
    for index, step in enumerate(found.steps):
        if isinstance(step, FileStep) and not step.scratch:
            batch.append((index, step))
        elif isinstance(step, CommandStep) and step.decision == "review":
            done += [batch, [(index, step)]]
            batch = []
    return [part for part in (*done, batch) if part]


def command_result(step: CommandStep, ending: Optional[Mapping[str, Any]]) -> str:
    """What became of a command that ended so; None where that is not known."""
    if ending is None:
        return "in_doubt"
    as_assumed = ending.get("exit_status") == step.exit_status and ending.get("stopped") is None
    return "done" if as_assumed else "failed"


def apply_over(
    found: Plan, setting: Setting, results: Dict[int, str], failure: Optional[RunnerError]
) -> Outcome:
    """End the apply of `found`, of which `results` are known: after a failure take back what was
    applied, if the plan says so, and close the journal.

    What is left in disorder by a clean-up that failed is not made better by more changes.
    """
    results = {index: results.get(index, "skipped") for index in range(len(found.steps))}
    if failure is not None:
        refused = None
        if found.on_failure == "rollback" and failure.code != "clean_up_failed":
            refused = _roll_back(found, setting, results, failure)
        _explain(found, results, failure, refused)
    outcome = Outcome(results, failure)
    try:
        setting.checkpoint.journal.write("finished", sync=False, **outcome.encode())
        setting.checkpoint.journal.write("closed")
    except OSError:
        pass  # Whoever looks at it next finds the same, and closes it.
    return outcome


def _roll_back(
    found: Plan, setting: Setting, results: Dict[int, str], failure: RunnerError
) -> Optional[RunnerError]:
    """Take back the file steps that are done; what it was refused for, if it was."""
    done = [(index, found.steps[index]) for index in sorted(results) if results[index] == "done"]
    changes = [(index, step) for index, step in done if isinstance(step, FileStep)]
    if not changes:
        return None
    told = {"code": failure.code, "details": failure.details}
    try:
        setting.checkpoint.journal.write("rollback", failure=told)
        take_back(setting, changes)
    except OSError as error:
        return as_runner_error(error, None)
    except RunnerError as error:
        if error.code != "clean_up_failed":
            return error
        failure.details["left"] = error.details["left"]
    results.update({index: "undone" for index, _ in changes})
    return None


def _explain(
    found: Plan,
    results: Mapping[int, str],
    failure: RunnerError,
    refused: Optional[RunnerError],
) -> None:
    """Put into the failure what became of the steps before it, in words."""
    files = [index for index, step in enumerate(found.steps) if isinstance(step, FileStep)]
    applied = [index for index in files if results[index] == "done"]
    undone = [index for index in files if results[index] == "undone"]
    failure.details["applied"] = numbers(applied)
    words = []
    if undone:
        words.append("rolled back")
        kept = kept_by_other_names([(index, found.steps[index]) for index in undone])
        if kept:
            words.append(f"other names of the file of {numbers(kept)} keep what it was given")
    elif applied:
        words.append(f"applied ({numbers(applied)})")
    if refused is not None:
        words.append(f"taking them back was refused: {_reason(refused)}")
    own = str(failure.details.get("before", "not applied"))
    if not words:
        words.append(own)
    elif own.startswith("undone, except"):
        words.insert(0, own + ", and of earlier batches")
    ran = [
        index
        for index, step in enumerate(found.steps)
        if isinstance(step, CommandStep)
        and step.decision == "review"
        and results[index] in ("done", "failed")
        and index != failure.details.get("step")
    ]
    if ran:
        words.append(f"what the commands of {numbers(ran)} did stays")
    doubtful = [index for index, result in results.items() if result == "in_doubt"]
    if doubtful:
        words.append(f"how far the command of {numbers(doubtful)} came is not known")
    failure.details["before"] = "; ".join(words)
    earlier = undone or applied or ran
    failure.details["earlier"] = f"; steps before it were {'; '.join(words)}" if earlier else ""


def _reason(error: RunnerError) -> str:
    details = error.details
    if error.code == "stale":
        expected, found = details.get("expected"), details.get("found")
        return f"{details.get('path')} was changed since (expected {expected}, found {found})"
    return str(details.get("reason", error.code))


def told(results: Mapping[int, str]) -> Iterator[Header]:
    """The events that tell what became of steps, one for all neighbours that fared alike."""
    places = enumerate(sorted(results.items()))
    # Neighbours are as far from the start as from each other.
    for (applied, _), run in groupby(places, lambda one: (one[1][1], one[1][0] - one[0])):
        indexes = [index for _, (index, _) in run]
        yield {"event": "steps", "first": indexes[0], "last": indexes[-1], "applied": applied}
