"""One call of a shim, from its claim to its answer.

observe: the program runs beside the sandbox and the shim prints what it prints. review: the call is
recorded at its place among the script's changes. deny: it never runs. Nothing here waits; what
comes later comes by the loop.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import stat
from dataclasses import dataclass, replace
from typing import Any, Callable, Dict, FrozenSet, Mapping, Optional, Tuple

from shannotd.runner import observe_environment
from shannotd.runner.caller import MAX_UNSENT_BYTES, Caller, Claim, Refused
from shannotd.runner.decisions import Decisions, Recording, Verdict
from shannotd.runner.frames import Closed, Header
from shannotd.runner.interpreters import interpreters
from shannotd.runner.libraries import loaded
from shannotd.runner.loop import Loop
from shannotd.runner.observation import Observer, Observers
from shannotd.runner.plan import CommandStep, Input, Interpreter
from shannotd.runner.record import Record
from shannotd.runner.resolution import (
    MAX_INPUT_BYTES,
    TOO_LARGE,
    Programs,
    look_at_input,
    recorded_environment,
)
from shannotd.runner.starts import DENIED, Turned
from shannotd.runner.view import View

TIMED_OUT = 124  # what timeout(1) answers for what took too long
_CHUNK = 65536
_NULL = os.makedev(1, 3)  # devices.txt of Linux
_STREAMS = ("stdout", "stderr")


@dataclass(frozen=True)
class Desk:
    """What all calls of a session have in common.

    `tree` is its sandbox's, `environment` what its script started with, `outputs` the device and
    inode of the pipes that it prints to, `proc_device` that of its /proc, `limits` those of the
    job.
    """

    loop: Loop
    decisions: Decisions
    record: Record
    programs: Programs
    tree: View
    observers: Observers
    environment: Dict[str, str]
    outputs: FrozenSet[Tuple[int, int]]
    proc_device: int
    limits: Mapping[str, Any]


class Call:
    """Serves one connection; owns it, and what serves its call."""

    def __init__(
        self, caller: Caller, turned: Turned, desk: Desk, ended: Callable[[Call], None]
    ) -> None:
        """`turned` is what was called; `ended` is told when nothing is left of it."""
        self._caller = caller
        self._turned = turned
        self._desk = desk
        self._ended = ended
        self._claim: Optional[Claim] = None
        self._assumed = self._merged = False
        self._stdin: Optional[int] = None
        self._pipe: Optional[int] = None
        self._observer: Optional[Observer] = None
        self._held: Dict[str, bytearray] = {name: bytearray() for name in _STREAMS}
        self._cut = dict.fromkeys(_STREAMS, False)
        self._answered = False
        self._closed = False
        desk.loop.add(caller.fileno(), self._on_caller)

    def close(self) -> None:
        """Hang up and end what serves the call."""
        if self._closed:
            return
        self._closed = True
        self._release()
        self._desk.loop.remove(self._caller.fileno())
        self._caller.close()
        self._ended(self)

    def _release(self) -> None:
        """Let go of all but the connection."""
        if self._pipe is not None:
            self._desk.loop.remove(self._pipe)
        for descriptor in (self._stdin, self._pipe):
            if descriptor is not None:
                os.close(descriptor)
        self._stdin = self._pipe = None
        if self._observer is not None:
            self._observer.close(self._desk.loop)
            self._observer = None

    # The shim

    def _on_caller(self, event: int) -> None:
        try:
            if event & select.POLLOUT:
                self._caller.flush()
            if event & ~select.POLLOUT:
                claim = self._caller.receive()
                if claim is not None:
                    self._begin(claim)
        except Refused as refusal:
            self._deny(str(refusal))
        except Closed:
            self.lose_caller()
        self._arrange()

    def lose_caller(self) -> None:
        """The shim was ended, most often since nobody reads its output: so is its program.

        What was observed until then is recorded: the script may have read some of it.
        """
        if self._observer is not None:
            self._cut["stdout"] = True
            self._record_observed(128 + signal.SIGPIPE)
        self.close()

    def _send(self, header: Header, payload: bytes = b"") -> None:
        if self._closed:
            return
        try:
            self._caller.send(header, payload)
        except Closed:
            self.lose_caller()

    def _answer(self, header: Header) -> None:
        """Send the last frame."""
        self._answered = True
        self._release()
        self._send(header)

    def _arrange(self) -> None:
        """Wait for what is to come next."""
        if self._closed:
            return
        unsent = self._caller.unsent
        if self._answered and not unsent and not self._caller.draining:
            self.close()
            return
        events = select.POLLIN | (select.POLLOUT if unsent else 0)
        self._desk.loop.change(self._caller.fileno(), events)
        if self._observer is not None:
            full = unsent > MAX_UNSENT_BYTES
            self._desk.loop.change(self._observer.fileno(), 0 if full else select.POLLIN)

    def _refuse(self, reason: str) -> None:
        text = f"shannot: {self._turned.name}: {reason}\n"
        self._send({"event": "output", "stream": "stderr"}, os.fsencode(text))
        self._answer({"event": "exit", "exit_code": DENIED, "signal": None})

    # The decision

    def _begin(self, claim: Claim) -> None:
        self._claim = claim
        self._stdin, stdout, stderr = claim.standard
        self._assumed = _is_read(stdout, self._desk.outputs)
        self._merged = os.path.samestat(os.fstat(stdout), os.fstat(stderr))
        # Kept open they would keep a reader of the script's waiting.
        os.close(stdout)
        os.close(stderr)
        verdict = self._turned.verdict
        if verdict.decision == "observe":
            self._observe(verdict)
        elif verdict.decision == "review":
            self._review(verdict.recording)
        else:
            self._deny(f"denied: {verdict.reason}")

    def _deny(self, reason: str) -> None:
        step = self._step("deny", DENIED, {}, ())
        self._desk.record.add(replace(step, reason=reason))
        self._refuse(reason)

    # review

    def _review(self, recording: Recording) -> None:
        assert self._stdin is not None
        given = look_at_input(self._stdin, recording.stdin, self._desk.proc_device)
        os.close(self._stdin)
        self._stdin = None
        if given.refused is not None:
            self._deny(given.refused)
        elif given.pipe is not None:
            self._pipe = given.pipe
            self._desk.loop.add(given.pipe, self._on_pipe)
        else:
            self._record_review(given.content, unread=given.unread)

    def _on_pipe(self, _: int) -> None:
        assert self._pipe is not None
        taken = self._held["stdout"]  # nothing else is held for a reviewed command
        try:
            data = os.read(self._pipe, _CHUNK)
        except BlockingIOError:
            return
        taken += data
        if len(taken) > MAX_INPUT_BYTES:
            self._deny(TOO_LARGE)
        elif not data:
            self._record_review(bytes(taken))
        self._arrange()

    def _record_review(self, content: Optional[bytes], *, unread: bool = False) -> None:
        assert self._claim is not None
        recording = self._turned.verdict.recording
        environment, changed = recorded_environment(
            self._claim.environment, self._desk.environment, self._turned.cwd
        )
        try:
            stdin = None if content is None else Input(*self._desk.record.keep(content))
            interpreters = self._interpreters(environment)
            step = self._step("review", recording.exit_status, environment, changed, hashed=True)
        except OSError as error:
            self._deny(f"it cannot be told again: {error.strerror}")
            return
        self._desk.record.barrier(
            replace(
                step,
                stdin=stdin,
                unread=unread,
                assumed=self._assumed,
                undo=recording.undo,
                seconds=recording.seconds,
                memory_bytes=self._desk.limits.get("command_memory_bytes"),
                processes=self._desk.limits.get("command_processes"),
                interpreters=interpreters,
                loaded=loaded(interpreters[-1].path if interpreters else step.program),
            )
        )
        if recording.stdout:
            self._send({"event": "output", "stream": "stdout"}, recording.stdout)
        self._answer({"event": "exit", "exit_code": recording.exit_status, "signal": None})

    def _interpreters(self, environment: Dict[str, str]) -> Tuple[Interpreter, ...]:
        """What runs the program, as the script has left that: so it is when the command's turn
        comes.

        :raises OSError: it cannot be read.
        """
        desk = self._desk

        def look(path: str) -> Optional[int]:
            try:
                return desk.tree.open(self._caller.process, path)
            except OSError:
                return None

        found = []
        search = environment.get("PATH", "")
        for path in interpreters(look, self._turned.program, self._turned.cwd, search):
            looked = look(path)
            if looked is None:
                raise OSError(errno.ENOENT, f"nothing is at {path}")
            found.append(Interpreter(path, desk.programs.hashed(looked)))
        return tuple(found)

    # observe

    def _observe(self, verdict: Verdict) -> None:
        assert self._claim is not None and self._stdin is not None
        os.close(self._stdin)
        self._stdin = None
        try:
            self._observer = self._desk.observers.begin(
                self._caller.process, verdict, self._claim.environment, merged=self._merged
            )
        except OSError as error:
            self._fail_observation(f"no process could be had: {error.strerror}")
            return
        self._desk.loop.add(self._observer.fileno(), self._on_observer)

    def _on_observer(self, _: int) -> None:
        """What the observed program printed, or how it ended."""
        assert self._observer is not None
        try:
            event, payload = self._observer.receive()
        except Closed:
            event, payload = {"event": "lost"}, b""
        if event["event"] == "lost":
            self._fail_observation("what observed it was killed")
        elif event["event"] == "error":
            details = event["details"]
            self._fail_observation(f"{details['reason']} {details.get('remedy', '')}".strip())
        elif event["event"] == "output":
            self._held[event["stream"]] += payload
            self._send({"event": "output", "stream": event["stream"]}, payload)
        else:
            self._end_observation(event)
        self._arrange()

    def _end_observation(self, observed: Header) -> None:
        for stream in observed["truncated"]:
            self._cut[stream] = True
        if observed["stopped"] is not None:
            self._conclude(TIMED_OUT, None, "stopped: it took too long")
        else:
            self._conclude(observed["exit_code"], observed["signal"])

    def _fail_observation(self, reason: str) -> None:
        """It cannot be run as it must be, so it runs nowhere (P8): this one call fails."""
        self._conclude(DENIED, None, f"could not be observed: {reason}")

    def _conclude(
        self, exit_code: Optional[int], number: Optional[int], said: Optional[str] = None
    ) -> None:
        """Record how an observed program ended, and what is to be `said` of it, and answer."""
        text = b""
        if said is not None:
            text = os.fsencode(f"shannot: {self._turned.name}: {said}\n")
        self._held["stderr"] += text
        self._record_observed(128 + (number or 0) if exit_code is None else exit_code)
        self._release()  # recorded it is, whoever is gone by now
        if text:
            self._send({"event": "output", "stream": "stderr"}, text)
        self._answer({"event": "exit", "exit_code": exit_code, "signal": number})

    def _record_observed(self, exit_status: int) -> None:
        assert self._claim is not None
        environment = observe_environment.environment(self._claim.environment)
        try:
            step = self._step("observe", exit_status, environment, (), hashed=True)
        except OSError:  # It may be executed but not read.
            step = self._step("observe", exit_status, environment, ())
        keep = self._desk.record.keep_output
        stdout, stderr = (keep(bytes(self._held[name]), self._cut[name]) for name in _STREAMS)
        self._desk.record.add(replace(step, assumed=self._assumed, stdout=stdout, stderr=stderr))

    def _step(
        self,
        decision: str,
        exit_status: int,
        environment: Dict[str, str],
        changed: Tuple[str, ...],
        *,
        hashed: bool = False,
    ) -> CommandStep:
        """The call as a step.

        :raises OSError: it is to be hashed and cannot be read.
        """
        turned = self._turned
        return CommandStep(
            decision=decision,
            program=turned.program,
            program_sha256=self._desk.programs.sha256(turned.program) if hashed else "",
            argv=turned.argv,
            cwd=turned.cwd,
            environment=environment,
            changed=changed,
            exit_status=exit_status,
            rule=turned.verdict.rule,
            reason=turned.verdict.reason,
            risk=turned.verdict.risk,
            link=None if turned.path == turned.program else turned.path,
        )


def _is_read(stdout: int, outputs: FrozenSet[Tuple[int, int]]) -> bool:
    """Whether a script may read what goes there: neither its own output nor /dev/null."""
    status = os.fstat(stdout)
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == _NULL:
        return False
    return (status.st_dev, status.st_ino) not in outputs
