"""What becomes of each program that a script starts: policy is asked where it has a say.

A program on PATH is asked about by its path on the host, its words and its directory, as they are
read from the memory of who starts it. They may be others by the time the kernel reads them, or a
program may be started in a way that is not seen through: then it runs contained, and only what is
told of it is false (see executions.py).
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from shannotd.runner import filesystem, view
from shannotd.runner.decisions import Decisions, Verdict
from shannotd.runner.executions import (
    Addresses,
    Execution,
    Executions,
    addresses,
    cwd_of,
    read_execution,
    read_words,
)
from shannotd.runner.frames import RunnerError
from shannotd.runner.interpreters import HEAD_BYTES, MAX_DEPTH, shebang
from shannotd.runner.names import Asked, Denied
from shannotd.runner.notifier import Notifier, Waiting
from shannotd.runner.plan import BlockedStep, CommandStep
from shannotd.runner.resolution import Programs
from shannotd.runner.view import View

# What a shell answers for what it may not execute.
DENIED = 126
# How many files are remembered to be no scripts, or scripts of what.
_KEPT = 4096


@dataclass(frozen=True)
class Start:
    """A call of the host's `program`; `path` is what was called, a link to it maybe.

    `asked`: it is on PATH, and policy decides; else it can only be denied. `words` are what the
    interpreter of a script is given in place of the first word of the call.
    """

    path: str
    program: str
    asked: bool
    words: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Turned:
    """A call for which a shim runs, and what policy said of it."""

    path: str
    program: str
    argv: Tuple[str, ...]
    cwd: str
    verdict: Verdict

    @property
    def name(self) -> str:
        """What the program is called in a message."""
        return os.path.basename(self.path)


@dataclass
class _Question:
    """A call that policy is asked about, and who waits for the answer."""

    start: Start
    execution: Execution
    argv: Tuple[str, ...]
    waiting: Waiting
    where: Addresses


class Starts:
    """Follows the starts of one session's programs; has what its shims ask for."""

    def __init__(
        self,
        notifier: Notifier,
        tree: View,
        shim: int,
        programs: Programs,
        decisions: Decisions,
        record: Callable[[CommandStep], None],
        prepare: Callable[[int, Verdict], None],
        *,
        asked: Asked,
        denied: Denied,
    ) -> None:
        """`tree` is the sandbox's, `shim` reads its shim, and is its own from now on.

        `record` takes denied commands, `prepare` is told that a process begins to run a shim, and
        of what policy said. `asked` are the programs on PATH that policy decides about,
        `denied` those that it may deny wherever they are.
        """
        self._notifier = notifier
        self._view = tree
        self._shim = shim
        self._programs = programs
        self._decisions = decisions
        self._record = record
        self._prepare = prepare
        self._asked = asked
        self._denied = denied
        self._executions = Executions()
        self._questions: Dict[int, _Question] = {}
        self._turned: Dict[int, Turned] = {}
        self._unfinished: Counter[str] = Counter()  # of earlier calls of the same processes
        self._interpreters: Dict[Tuple[int, ...], Optional[List[str]]] = {}
        self.count = 0  # of the calls that policy was asked about

    def close(self) -> None:
        """Let go of the shim."""
        os.close(self._shim)

    def executions(self) -> List[Dict[str, object]]:
        """The programs that were started inside so far (see `Executions.listed`)."""
        return self._executions.listed()

    def claim(self, pid: int) -> Optional[Turned]:
        """The call for which the process `pid` runs a shim; once only. None if there is none."""
        return self._turned.pop(pid, None)

    def unfinished(self) -> List[BlockedStep]:
        """Calls that policy let be recorded or observed, and whose shim was killed too early."""
        counts = self._unfinished + Counter(map(_words, self._turned.values()))
        return [BlockedStep("call", words, count) for words, count in counts.items()]

    def begin(self, waiting: Waiting) -> None:
        """A program is being started: ask about it, or let it go on.

        :raises RunnerError: `sandbox_unavailable`: who starts it cannot be looked at.
        :raises Closed: the daemon is gone.
        """
        where = addresses(waiting.name, waiting.arguments)
        if self._is_shim(waiting, where):
            self._notifier.refuse(waiting, 0)
            return
        try:
            execution = read_execution(waiting.pid, where)
        except PermissionError as error:
            if self._notifier.waits(waiting.identifier):
                raise _not_followed(error) from error
            execution = None  # it is dead
        if execution is None or not self._notifier.waits(waiting.identifier):
            self._notifier.refuse(waiting, 0)
            return
        try:
            start = self._find(waiting.pid, execution)
            if start is not None and not execution.cwd:
                execution = replace(execution, cwd=cwd_of(waiting.pid))
        except (FileNotFoundError, ProcessLookupError):
            # Nothing starts, or it is dead: most often the next directory on PATH is tried.
            self._notifier.refuse(waiting, 0)
            return
        if start is None:
            self._go_on(waiting, execution)
        else:
            self._ask(start, execution, waiting, where)

    def _is_shim(self, waiting: Waiting, where: Addresses) -> bool:
        """Whether it is what we turned a call into."""
        if not where.flags & filesystem.AT_EMPTY_PATH:
            return False
        try:
            found = os.stat(f"/proc/{waiting.pid}/fd/{where.directory}")
        except OSError:
            return False
        return os.path.samestat(found, os.fstat(self._shim))

    def _go_on(self, waiting: Waiting, execution: Execution) -> None:
        self._executions.add(execution)
        self._notifier.refuse(waiting, 0)

    # What is started

    def _find(self, pid: int, execution: Execution) -> Optional[Start]:
        """What of the host's is called, if policy is to be asked about that.

        The interpreter of a script is called, too, with more words.

        :raises FileNotFoundError: nothing is there.
        """
        named = execution.named
        # What no path describes is found by its descriptor.
        path = named if named.startswith("/dev/fd/") else execution.path
        words: Tuple[str, ...] = ()
        arguments = None if execution.cut else execution.argv[1:]
        for depth in range(MAX_DEPTH):
            try:
                seen = self._view.open(pid, path)
            except FileNotFoundError:
                if depth == 0:
                    raise
                return None
            except OSError:
                return None
            try:
                found = self._look(execution.path if not words else path, seen, arguments)
                interpreter = None if found is not None else self._interpreter(seen)
            except OSError:
                return None
            finally:
                os.close(seen)
            if found is not None:
                return replace(found, words=words)
            if interpreter is None:
                return None
            words = (*interpreter, named, *words[1:])
            arguments = None  # it is given others
            named = interpreter[0]
            path = named if named.startswith("/") else f"{execution.cwd or cwd_of(pid)}/{named}"
        return None

    def _look(self, path: str, seen: int, arguments: Optional[Sequence[str]]) -> Optional[Start]:
        place = view.place(seen)
        names = os.path.basename(path), os.path.basename(place)
        if any(name in self._asked for name in names):
            called = self._programs.find(path, place, seen)
            # What a link of the script's own is called does not count.
            if called is not None and any(
                os.path.basename(one) in self._asked for one in (called, place)
            ):
                return Start(called, place, asked=True)
        if any(self._denied.may_be(name, arguments) for name in names):
            return Start(os.path.normpath(path), place, asked=False)
        return None

    def _interpreter(self, seen: int) -> Optional[List[str]]:
        """What the file's first line names.

        :raises OSError: it cannot be looked at.
        """
        status = os.fstat(seen)
        if not stat.S_ISREG(status.st_mode):
            return None
        key = (status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns)
        if key not in self._interpreters:
            if len(self._interpreters) >= _KEPT:
                self._interpreters.clear()
            descriptor = filesystem.open_content(seen)
            try:
                self._interpreters[key] = shebang(os.pread(descriptor, HEAD_BYTES, 0))
            finally:
                os.close(descriptor)
        return self._interpreters[key]

    # The question

    def _ask(self, start: Start, execution: Execution, waiting: Waiting, where: Addresses) -> None:
        argv = execution.argv or (execution.path,)
        if start.asked:
            whole = read_words(waiting.pid, where)
            if whole is None:
                if self._notifier.waits(waiting.identifier):  # else it was killed meanwhile
                    self._refuse_size(start, execution, waiting)
                return
            argv = whole or argv
        if start.words:
            argv = (*start.words, *argv[1:])
        before = self._questions.get(waiting.pid)
        question = _Question(start, execution, argv, waiting, where)
        if before is not None and (before.start, before.argv) == (start, argv):
            # A signal interrupted the call, which was begun again.
            self._questions[waiting.pid].waiting = waiting
            return
        self._questions[waiting.pid] = question
        self.count += 1
        self._decisions.ask(
            start.path,
            start.program,
            argv,
            execution.cwd,
            partial(self._on_verdict, question),
            start=not start.asked,
        )

    def _on_verdict(self, question: _Question, verdict: Verdict) -> None:
        """
        :raises RunnerError: `sandbox_unavailable`: who called cannot be followed.
        """
        waiting, start = question.waiting, question.start
        if self._questions.get(waiting.pid) is not question:
            return  # it was gone meanwhile, and started another program
        del self._questions[waiting.pid]
        denied = verdict.decision == "deny"
        if verdict.decision == "contain" or not (start.asked or denied):
            self._go_on(waiting, question.execution)
        elif start.asked:
            self._turn(question, verdict)
        else:
            self._notifier.refuse(waiting, errno.EACCES)
            self._record(_denied(start, question.argv, question.execution.cwd, verdict))

    def _turn(self, question: _Question, verdict: Verdict) -> None:
        waiting, start = question.waiting, question.start
        process = _process(waiting.pid)
        try:
            turned = self._notifier.turn(
                waiting, question.where, question.execution.empty, self._shim
            )
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise _not_followed(error) from error
            self._notifier.refuse(waiting, errno.EMFILE)
            return
        if turned:
            before = self._turned.get(process)
            if before is not None:
                self._unfinished[_words(before)] += 1
            self._turned[process] = Turned(
                start.path, start.program, question.argv, question.execution.cwd, verdict
            )
            self._prepare(process, verdict)

    def _refuse_size(self, start: Start, execution: Execution, waiting: Waiting) -> None:
        """A call with more words than a plan can have."""
        self._notifier.refuse(waiting, errno.E2BIG)
        reason = "its arguments are too large: only the first of them are shown"
        verdict = Verdict("deny", "", reason, "caution")
        argv = (*start.words, *execution.argv)
        self._record(_denied(start, argv, execution.cwd, verdict))


def _words(turned: Turned) -> str:
    return shlex.join(turned.argv)


def _process(thread: int) -> int:
    """The process of a thread, which has its number when the thread executes a program."""
    try:
        with open(f"/proc/{thread}/status", encoding="utf-8", errors="replace") as file:
            return next(int(line[5:]) for line in file if line.startswith("Tgid:"))
    except (OSError, StopIteration):
        return thread  # gone


def _denied(start: Start, argv: Tuple[str, ...], cwd: str, verdict: Verdict) -> CommandStep:
    return CommandStep(
        decision="deny",
        program=start.program,
        program_sha256="",
        argv=argv,
        cwd=cwd,
        environment={},
        changed=(),
        exit_status=DENIED,
        rule=verdict.rule,
        reason=verdict.reason,
        risk=verdict.risk,
    )


def _not_followed(error: OSError) -> RunnerError:
    reason = f"the programs that a script starts cannot be followed: {error.strerror}"
    remedy = "The runner needs ptrace(2): see kernel.yama.ptrace_scope and CAP_SYS_PTRACE."
    return RunnerError("sandbox_unavailable", reason=reason, remedy=remedy)
