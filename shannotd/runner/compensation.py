"""The commands that make up for those of a session that is rolled back: found on the host as it
is now, and judged by the daemon's policy like any other call. They run only by an approval.
"""

from __future__ import annotations

import os
from typing import Dict, Iterable, Optional, Set, Tuple, Union

from shannotd.runner.decisions import Decisions, Verdict
from shannotd.runner.delta import lineage
from shannotd.runner.frames import Channel, Closed
from shannotd.runner.interpreters import interpreters, on_host
from shannotd.runner.libraries import loaded
from shannotd.runner.plan import CommandStep, FileStep, Identity, Interpreter
from shannotd.runner.resolution import Programs

_RISKS = ("caution", "unknown", "danger")


class Compensation:
    """Makes the commands of one rollback."""

    def __init__(self, channel: Channel, identity: Identity) -> None:
        """What the policy says is asked over `channel`."""
        self._channel = channel
        self._identity = identity
        self._decisions = Decisions(channel, as_root=identity.uid == 0)
        self._gone: Set[str] = set()
        self._made: Set[str] = set()
        self._restored: Dict[str, str] = {}  # the contents of files by then

    def follow(self, step: FileStep) -> None:
        """Before the next command `step` is done: its directory may be gone then."""
        for path in (step.path, step.old_path):
            if path is not None:
                self._made.discard(path)
                self._gone.add(path)
                self._restored.pop(path, None)
        if step.after.sha256 is not None:
            self._restored[step.path] = step.after.sha256
        if step.after.type == "directory":
            self._made.add(step.path)
            self._gone.discard(step.path)

    def make(self, index: int, command: CommandStep) -> Union[CommandStep, str]:
        """What makes up for `command`, the step `index` of the plan that is taken back; or why
        nothing does.

        :raises Closed: the daemon is gone.
        """
        undo = command.undo
        assert undo is not None
        path = undo[0] if undo[0].startswith("/") else command.program
        programs = Programs(os.path.dirname(path), self._identity)
        program = programs.there(path)
        if program is None:
            return f"there is no program {path}, which would make up for it"
        cwd = command.cwd if self._is_directory(command.cwd) else "/"
        environment = _environment(command, cwd)
        found = interpreters(on_host, program, cwd, environment.get("PATH", ""))
        try:
            sha256, *others = (self._sha256(programs, one) for one in (program, *found))
        except OSError as error:
            return f"{program}, which would make up for it, cannot be read ({error.strerror})"
        verdict = self._ask(path, program, undo, cwd)
        if verdict.decision == "deny":
            return f"what would make up for it is denied: {verdict.reason}"
        recording = verdict.recording if verdict.decision == "review" else None
        return CommandStep(
            decision="review",
            program=program,
            program_sha256=sha256,
            argv=undo,
            cwd=cwd,
            environment=environment,
            changed=command.changed,
            exit_status=0,
            rule=verdict.rule,
            reason=f"makes up for step {index + 1}: {verdict.reason}",
            risk=verdict.risk if verdict.risk in _RISKS else "caution",
            seconds=command.seconds if recording is None else recording.seconds,
            output_bytes=command.output_bytes,
            memory_bytes=command.memory_bytes,
            processes=command.processes,
            undo=None if recording is None else recording.undo,
            link=None if path == program else path,
            interpreters=tuple(map(Interpreter, found, others)),
            loaded=loaded(found[-1] if found else program),
        )

    def _sha256(self, programs: Programs, path: str) -> str:
        """The content of a file when the command's turn comes.

        :raises OSError: it cannot be read.
        """
        restored = self._restored.get(path)
        return programs.sha256(path) if restored is None else restored

    def _ask(self, path: str, program: str, argv: Tuple[str, ...], cwd: str) -> Verdict:
        answer: Dict[str, Optional[Verdict]] = {"verdict": None}

        def take(verdict: Verdict) -> None:
            answer["verdict"] = verdict

        self._decisions.ask(path, program, argv, cwd, take, start=False)
        header, _, _ = self._channel.receive()
        if header.get("op") != "verdict":
            raise Closed("no verdict")
        self._decisions.answer(header)
        verdict = answer["verdict"]
        if verdict is None:
            raise Closed("a verdict on nothing")
        return verdict

    def _is_directory(self, path: str) -> bool:
        """Whether a command can begin in `path` then."""
        above: Iterable[str] = lineage(path)
        if any(one in self._made for one in above):
            return True
        return not any(one in self._gone for one in above) and os.path.isdir(path)


def _environment(command: CommandStep, cwd: str) -> Dict[str, str]:
    """That of the command itself: an account's own service manager is found by it."""
    environment = dict(command.environment)
    if cwd != command.cwd and "PWD" in environment:
        environment["PWD"] = cwd
    return environment
