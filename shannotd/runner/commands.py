"""Commands of an approved plan: run on the host, exactly as they were reviewed (P2, P3).

This process has the plan's identity and umask already: an ordinary one has no other rights, root
has all of its own, since this is the real run that somebody approved.

A command that has begun is not ended by the loss of the daemon: half a package upgrade is worse
than one that nobody watched to its end. But nothing after it is begun then.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import select
import shlex
import signal
import stat
from contextlib import ExitStack
from typing import Optional, Sequence, Tuple

from shannotd.runner import command_process, filesystem, tree
from shannotd.runner.command_group import CommandGroup
from shannotd.runner.command_process import Start
from shannotd.runner.contents import EMPTY, AskedContents
from shannotd.runner.frames import Channel, Closed, Header, RunnerError
from shannotd.runner.interpreters import interpreters, on_host
from shannotd.runner.journal import Journal
from shannotd.runner.orders import Orders
from shannotd.runner.paths import resolved
from shannotd.runner.plan import CommandStep, Identity, Input
from shannotd.runner.workspace import stale

# A daemon that takes nothing for so long is taken for gone: its command must go on.
_PATIENCE_SECONDS = 30
_COPY_BYTES = 1 << 20
_SHOWN_CHARACTERS = 500  # of a command, in an error
_NOT_STARTED: Header = {
    "exit_status": None,
    "signal": None,
    "stopped": "not_started",
    "duration": 0.0,
    "truncated": [],
    "left": 0,
    "hindered": False,
}
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def run_command(
    index: int,
    step: CommandStep,
    *,
    identity: Identity,
    contents: AskedContents,
    protected: Sequence[str],
    orders: Orders,
    journal: Journal,
    held: Tuple[int, ...] = (),
    group: Optional[CommandGroup] = None,
) -> None:
    """Run the command of step `index` and tell of it; it must end as the dry run assumed.

    `protected` are programs, and directories of programs, that no plan may start. Its start and
    its end go to the `journal`; the descriptors `held` stay open until it has ended, even if
    this process has not. It is put into the `group`, where there is one.

    :raises RunnerError: `stale`: the program or directory is another one, nothing ran;
        `not_permitted`: nothing ran; `command_failed`.
    :raises Closed: the daemon is gone, before it ran or while it did.
    """
    _check_protected(step, identity, protected)
    with ExitStack() as stack:

        def owned(descriptor: int) -> int:
            stack.callback(os.close, descriptor)
            return descriptor

        owned(_open_reviewed(index, step))  # so that what cannot start is not said to
        cwd = owned(_open_directory(index, step))
        stdin = owned(_open_input(index, step, contents))
        if not orders.may_start(index):
            raise command_failed(index, step, "was cancelled before it began")
        # Once more: only now is just before it runs.
        try:
            program = owned(_open_reviewed(index, step))
        except RunnerError:
            orders.send({"event": "command", "index": index, **_NOT_STARTED})
            raise
        start = Start(
            program,
            None if _runs_by_descriptor(program) else step.link or step.program,
            step.argv,
            step.environment,
            cwd,
            stdin,
            step.seconds,
            step.output_bytes,
            held,
            group,
            step.memory_bytes,
            step.processes,
        )
        journal.write("command", index=index)
        try:
            keeper = command_process.keep(start)
        except OSError as error:
            journal.write("ended", index=index, ending=_NOT_STARTED)
            orders.send({"event": "command", "index": index, **_NOT_STARTED})
            raise command_failed(index, step, _not_started(error.errno)) from error
        ended = _follow(index, step, keeper, orders, journal, group)
    ending = _ending(step, ended)
    if ending is not None:
        raise command_failed(index, step, ending)


def command_failed(index: int, step: CommandStep, ending: str) -> RunnerError:
    """The command did not end as it should: `ending` says how it did."""
    return RunnerError(
        "command_failed",
        step=index,
        command=shlex.join(step.argv)[:_SHOWN_CHARACTERS],
        ending=ending,
        expected=step.exit_status,
    )


def _check_protected(step: CommandStep, identity: Identity, protected: Sequence[str]) -> None:
    for path in protected:
        if (step.program + "/").startswith(path.rstrip("/") + "/"):
            raise RunnerError(
                "not_permitted",
                identity=identity.name,
                action="run",
                path=step.program,
                reason="the runner's runner.conf protects it",
            )


def _open_reviewed(index: int, step: CommandStep) -> int:
    """The program with the content that was reviewed, that is called and run as it was."""
    _check_link(index, step)
    program = _open_hashed(index, step, step.program, step.program_sha256)
    try:
        _check_interpreters(index, step)
    except BaseException:
        os.close(program)
        raise
    return program


def _check_interpreters(index: int, step: CommandStep) -> None:
    """See that a script is run by just what was reviewed."""
    search = step.environment.get("PATH", "")
    found = interpreters(on_host, step.program, step.cwd, search)
    expected = [one.path for one in step.interpreters]
    if found != expected:
        raise stale(index, step.program, _run_by(expected), _run_by(found))
    for one in step.interpreters:
        os.close(_open_hashed(index, step, one.path, one.sha256))


def _run_by(paths: Sequence[str]) -> str:
    return f"a script that is run by {', '.join(paths)}" if paths else "no script"


def _open_hashed(index: int, step: CommandStep, path: str, sha256: str) -> int:
    """A file that runs, no component of its path a symlink, with the content that was reviewed."""
    expected = f"a program with sha256 {sha256[:16]}"
    parent, _, name = path.rpartition("/")
    try:
        directory = filesystem.open_directory(parent or "/")
        try:
            descriptor = os.open(name, filesystem.O_READ, dir_fd=directory)
        finally:
            os.close(directory)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise stale(index, path, expected, "nothing") from error
        if error.errno == errno.ELOOP:
            raise stale(index, path, expected, "a symlink") from error
        reason = f"could not be started ({path}: {os.strerror(error.errno or 0)})"
        raise command_failed(index, step, reason) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise stale(index, path, expected, "no regular file")
        found = tree.hash_content(descriptor)
        if found != sha256:
            raise stale(index, path, expected, f"one with sha256 {found[:16]}")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_link(index: int, step: CommandStep) -> None:
    """See that the path that was called leads to the program: a script finds there its name."""
    found = None if step.link is None else resolved(step.link)
    if step.link is not None and found != step.program:
        expected, now = f"a link to {step.program}", f"one to {found}" if found else "nothing"
        raise stale(index, step.link, expected, now)


def _runs_by_descriptor(program: int) -> bool:
    """Whether just the file that was hashed can be executed, whatever is at its path by then.

    A script cannot: the kernel would give its interpreter a name in /dev/fd, by which the script
    finds nothing beside itself, and which is closed by then. Other formats (binfmt_misc) are the
    same. And before Linux 6.14 a program started so is called after the descriptor's number in
    the process table, where killall and pkill look for a daemon that it leaves behind. These are
    executed by their path, whose content was checked a moment before; who could replace it
    between the two could as well replace it before the dry run.
    """
    release = os.uname().release.split(".")
    version = tuple(int(part) for part in release[:2] if part.isdigit())
    return os.pread(program, 4, 0) == b"\x7fELF" and version >= (6, 14)


def _open_directory(index: int, step: CommandStep) -> int:
    try:
        return filesystem.open_directory(step.cwd)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise stale(index, step.cwd, "directory", "no directory") from error
        if error.errno == errno.ELOOP:
            raise stale(index, step.cwd, "directory", "a symlink") from error
        reason = f"could not enter {step.cwd} ({os.strerror(error.errno or 0)})"
        raise command_failed(index, step, reason) from error


def _open_input(index: int, step: CommandStep, contents: AskedContents) -> int:
    """What the command reads as its standard input, from its beginning and read-only."""
    if step.stdin is None:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    memory = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        if _fill(memory, step.stdin, contents) != step.stdin.sha256:
            raise command_failed(index, step, "was sent another standard input than was reviewed")
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
        return os.open(filesystem.by_descriptor(memory), os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(memory)


def _fill(memory: int, wanted: Input, contents: AskedContents) -> str:
    """Write a content to `memory`; the SHA-256 of what was written."""
    if wanted.sha256 == EMPTY:
        return EMPTY
    contents.ask([(wanted.sha256, wanted.size)])
    content = contents.get(wanted.sha256)
    digest = hashlib.sha256()
    with open(memory, "wb", closefd=False) as target:
        if isinstance(content, bytes):
            digest.update(content)
            target.write(content)
        else:
            done = 0
            while done < wanted.size:
                part_size = min(wanted.size - done, _COPY_BYTES)
                part = os.pread(content.descriptor, part_size, content.offset + done)
                if not part:
                    break
                digest.update(part)
                target.write(part)
                done += len(part)
    contents.drop()
    return digest.hexdigest()


def _follow(
    index: int,
    step: CommandStep,
    keeper: Channel,
    orders: Orders,
    journal: Journal,
    group: Optional[CommandGroup],
) -> Header:
    """Pass on what the keeper tells, until the command has ended; how it did."""
    listener = _Listener(orders, index)
    with keeper:
        while True:
            listener.wait(keeper)
            if orders.cancelled:
                _stop(keeper)
            try:
                event, payload, _ = keeper.receive()
            except Closed:
                reason = "lost the process that watched over it and may still run"
                if group is not None:
                    group.kill()
                    reason = "lost the process that watched over it and was killed"
                raise command_failed(index, step, reason) from None
            if event["event"] == "not_started":
                journal.write("ended", index=index, ending=_NOT_STARTED)
                listener.tell({"event": "command", **_NOT_STARTED})
                raise command_failed(index, step, _not_started(event["errno"]))
            if event["event"] == "ended":
                break
            listener.tell({**event, "event": "command_output"}, payload)
    journal.write("ended", index=index, ending=event)
    listener.tell({**event, "event": "command"})
    if listener.lost is not None:
        raise listener.lost
    return event


def _not_started(code: Optional[int]) -> str:
    return f"could not be started ({os.strerror(code or 0)})"


def _stop(keeper: Channel) -> None:
    try:
        keeper.send({"op": "stop"})
    except Closed:
        pass  # it has ended meanwhile, and said so


class _Listener:
    """The daemon, as long as it is there."""

    def __init__(self, orders: Orders, index: int) -> None:
        self.lost: Optional[Closed] = None
        self._orders = orders
        self._index = index
        orders.limit_sending(_PATIENCE_SECONDS)

    def wait(self, keeper: Channel) -> None:
        """Until the keeper has something to say, or the daemon first wants the command ended."""
        asked = self._orders.cancelled
        poll = select.poll()
        poll.register(keeper.fileno(), select.POLLIN)
        if self.lost is None:
            poll.register(self._orders.fileno(), select.POLLIN)
        while not keeper.pending():
            ready = [descriptor for descriptor, _ in poll.poll()]
            if self._orders.fileno() in ready:
                try:
                    self._orders.look()
                except Closed as error:
                    self.lost = error
                    poll.unregister(self._orders.fileno())
            if keeper.fileno() in ready or self._orders.cancelled is not asked:
                return

    def tell(self, header: Header, payload: bytes = b"") -> None:
        """Tell the daemon, if it is there."""
        if self.lost is None:
            try:
                self._orders.send({**header, "index": self._index}, payload)
            except Closed as error:
                self.lost = error


def _ending(step: CommandStep, ended: Header) -> Optional[str]:
    """How the command ended, in words; None where that is as the dry run assumed."""
    if ended["stopped"] == "seconds":
        return f"did not end within {step.seconds:g} s and was stopped"
    if ended["stopped"] == "output_bytes":
        return "printed without end and was stopped"
    if ended["stopped"] == "memory_bytes":
        return f"used more than {step.memory_bytes} bytes of memory and was stopped"
    if ended["stopped"] == "cancelled":
        return "was cancelled while it ran"
    short = ""
    if ended["hindered"]:
        short = f", and could start no more than {step.processes} processes at a time"
    if ended["signal"] is not None:
        name = signal.strsignal(ended["signal"])
        return f"was ended by signal {ended['signal']} ({name}){short}"
    if ended["exit_status"] != step.exit_status:
        return f"ended with exit status {ended['exit_status']}{short}"
    return None
