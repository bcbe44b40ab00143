"""After an apply that was cut short: what it did, told by its journal and by looking; and the
rest of what it would have done when it fails (P4).

Every act here can itself be cut short and begun again.
"""

from __future__ import annotations

import os
import stat
from typing import Dict, Iterable, List, Optional, Sequence, Set, Tuple

from shannotd.runner import filesystem
from shannotd.runner.batch import Setting
from shannotd.runner.directories import Directories, remove
from shannotd.runner.finish import FinalPaths, close_directories, needing_closing
from shannotd.runner.frames import RunnerError
from shannotd.runner.journal import Applied, BatchState
from shannotd.runner.outcome import Outcome, apply_over, command_result, parts
from shannotd.runner.plan import CommandStep, FileStep, Identity, Plan
from shannotd.runner.removal import remove_all, told
from shannotd.runner.reverse import reverse
from shannotd.runner.tree import MountInside
from shannotd.runner.undo import undo
from shannotd.runner.workspace import TEMPORARY

Steps = Sequence[FileStep]


def recover(found: Plan, setting: Setting) -> Outcome:
    """Bring the apply of `found` to an end, as its identity; what became of each step.

    :raises RunnerError: it could not be, and can be tried again.
    :raises journal.Damaged: the journal cannot be read.
    """
    checkpoint = setting.checkpoint
    applied = checkpoint.applied()
    if applied.finished is not None:
        checkpoint.journal.write("closed")
        return Outcome.decode(applied.finished)
    left: List[str] = []
    if applied.open_batch is not None:
        left = _close_batch(applied.open_batch, _steps_of(found, applied, setting), setting)
        applied = checkpoint.applied()
    results = _results(found, applied)
    over = all(results.get(index) == "done" for part in parts(found) for index, _ in part)
    failure = None if over else _failure(applied, left)
    return apply_over(found, setting, results, failure)


def _steps_of(found: Plan, applied: Applied, setting: Setting) -> Steps:
    """The steps of the open batch, in its order."""
    batch = applied.open_batch
    assert batch is not None
    if not batch.reverse:
        return [found.steps[index] for index in batch.steps]
    done = [(index, found.steps[index]) for index in applied.was_done()]
    return [step for _, step in reverse(done, setting.checkpoint.saved())]


def _close_batch(batch: BatchState, steps: Steps, setting: Setting) -> List[str]:
    """Take the batch back, or clean up after it if all of it is done; what is left, and why."""
    journal = setting.checkpoint.journal
    with Directories() as directories:
        if batch.phase == "done":
            left = _clean(batch, steps, directories)
            left += _sync(batch, steps, directories)
            journal.write("cleaned")
            return left
        if batch.phase == "batch":
            left = _sweep(batch, steps, directories)
        else:
            left = _take_back(batch, steps, setting.identity, directories)
        left += _sync(batch, steps, directories)
        journal.write("undone", kept=left)
        return left


def _clean(batch: BatchState, steps: Steps, directories: Directories) -> List[str]:
    final = FinalPaths(steps)
    waiting = [
        (where, intent.temporary)
        for position, (intent, step) in enumerate(zip(batch.intents, steps))
        for where in (final.of(intent.parent, position), intent.place)
        if intent.temporary is not None and where is not None
        if step.change != "create"
    ]
    left = remove_all([(path, name) for path, name in waiting if _exists(path, name, directories)])
    left += _remove_places(batch.places, directories)
    return left + close_directories(needing_closing(steps), directories)


def _take_back(
    batch: BatchState, steps: Steps, identity: Identity, directories: Directories
) -> List[str]:
    undone = undo(list(zip(batch.intents, steps)), identity, directories)
    left = undone.kept + sorted("/".join(held) for held in undone.held)
    names = [
        (where, intent.temporary)
        for intent, step in zip(batch.intents, steps)
        for where in dict.fromkeys((intent.staged_in, intent.parent))
        if intent.temporary is not None and where is not None
        if (where, intent.temporary) not in undone.held and step.change != "delete"
    ]
    left += _remove_staged(names, directories)
    return left + _remove_places(batch.places, directories)


def _remove_staged(names: Sequence[Tuple[str, str]], directories: Directories) -> List[str]:
    """Remove what the batch made, where it is still there: files first, of which there are many,
    then directories, in which some of these were."""
    left: List[str] = []
    files: List[Tuple[str, str]] = []
    trees: List[Tuple[str, str]] = []
    for path, name in names:
        try:
            directory, _ = directories.get(path)
            mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            left.append(told(f"{path}/{name}", error))
            continue
        (trees if stat.S_ISDIR(mode) else files).append((path, name))
    left += remove_all(files)
    for path, name in trees:
        left += _remove(path, name, directories)
    return left


def _sweep(batch: BatchState, steps: Steps, directories: Directories) -> List[str]:
    """Nothing was changed yet: what begins with the batch's own prefix was staged."""
    left: List[str] = []
    for path in sorted(_around(steps)):
        try:
            directory, _ = directories.get(path)
            listed = os.open(".", filesystem.O_DIRECTORY_READ, dir_fd=directory)
        except OSError:
            continue  # Where there is no directory, or none to be read, nothing was staged.
        try:
            names = [name for name in os.listdir(listed) if name.startswith(batch.prefix)]
        finally:
            os.close(listed)
        for name in names:
            left += _remove(path, name, directories)
    return left + _narrow(steps, directories)


def _around(steps: Steps) -> Set[str]:
    """The directories of the steps' paths, and those above them."""
    found: Set[str] = set()
    for step in steps:
        for path in (step.path, step.old_path):
            while path:
                path = path.rpartition("/")[0]
                if path in found:
                    break
                found.add(path)
    return found


def _narrow(steps: Steps, directories: Directories) -> List[str]:
    """Directories that were made writable for what was staged in them get their mode back."""
    left: List[str] = []
    for step in steps:
        if step.change != "metadata" or step.before.type != "directory":
            continue
        before = step.before.mode
        try:
            directory, status = directories.get(step.path)
            widened = before is not None and stat.S_IMODE(status.mode) == before | 0o700
            if before is not None and widened and before & 0o700 != 0o700:
                os.chmod(filesystem.by_descriptor(directory), before)
        except OSError as error:
            left.append(told(step.path, error))
    return left


def _exists(path: str, name: str, directories: Directories) -> bool:
    try:
        directory, _ = directories.get(path)
        filesystem.status_at(directory, name)
    except OSError:
        return False
    return True


def _remove(path: str, name: str, directories: Directories) -> List[str]:
    assert name.startswith(TEMPORARY)
    try:
        directory, _ = directories.get(path)
        remove(directory, name, path)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, MountInside) as error:
        return [told(f"{path}/{name}", error)]
    return []


def _remove_places(places: Iterable[str], directories: Directories) -> List[str]:
    left: List[str] = []
    for place in places:
        parent, _, name = place.rpartition("/")
        try:
            directory, _ = directories.get(parent)
            os.rmdir(name, dir_fd=directory)
        except FileNotFoundError:
            pass
        except OSError as error:
            left.append(told(place, error))
    return left


def _sync(batch: BatchState, steps: Steps, directories: Directories) -> List[str]:
    """Bring the filesystems on which something was done to disk."""
    synced: Set[int] = set()
    paths: List[Optional[str]] = [intent.parent for intent in batch.intents]
    paths += [step.path.rpartition("/")[0] for step in steps]
    for path in {path for path in paths if path is not None}:
        try:
            directory, status = directories.get(path)
            if status.device in synced:
                continue
            listed = os.open(".", filesystem.O_DIRECTORY_READ, dir_fd=directory)
        except OSError:
            os.sync()
            continue
        try:
            filesystem.sync_filesystem(listed)
            synced.add(status.device)
        finally:
            os.close(listed)
    return []


def _results(found: Plan, applied: Applied) -> Dict[int, str]:
    """What became of each step, as far as it was begun."""
    results: Dict[int, str] = {}
    for batch in applied.batches:
        if batch.reverse:
            continue
        outcome = "done" if batch.phase in ("done", "cleaned") else "skipped"
        results.update(dict.fromkeys(batch.steps, outcome))
    if applied.taken_back:
        for index, outcome in results.items():
            if outcome == "done":
                results[index] = "undone"
    for index, ending in applied.commands.items():
        step = found.steps[index]
        assert isinstance(step, CommandStep)
        results[index] = command_result(step, ending)
    return results


def _failure(applied: Applied, left: Sequence[str]) -> RunnerError:
    """Why the apply did not come to its end."""
    if applied.failure is not None:
        return RunnerError(applied.failure["code"], **applied.failure["details"])
    before = "undone, except for " + ", ".join(left) if left else "not applied"
    return RunnerError("apply_interrupted", before=before)
