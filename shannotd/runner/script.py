"""From a child of the sandbox's init to the script: identity, limits, filter, then run it.

Python scripts run in this warm interpreter, everything else is executed. What the script
must not see of us (descriptors, modules, arguments, frames of ours) is gone before it
starts.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
from typing import Dict, List, NoReturn, Optional, Sequence

from shannotd.runner import kernel, python
from shannotd.runner.frames import Channel, Closed, Header, RunnerError
from shannotd.runner.interpreters import shebang
from shannotd.runner.sandbox import SCRIPT_DIRECTORY

# What an identity of root may do inside: what apt, chown and edits under /etc need, over files
# only.
_FILE_CAPABILITIES = (
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "SETUID",
    "SETGID",
    "SETFCAP",
    "KILL",
)

# No core is that small; and where core_pattern names a program (core(5)) only this value keeps
# the kernel from starting it, as root on the host. The filter lets nobody change it.
_NO_CORE = 1


def main(report: Channel, program: bytes, privileged: bool) -> NoReturn:
    """Prepare what needs no job, wait for it, become its script; never returns.

    Failures go to `report`.
    """
    job: Header = {}
    try:
        isolated = _isolate(report) if privileged else True
        os.setsid()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        # Before the filter, which lets nobody change it.
        resource.setrlimit(resource.RLIMIT_CORE, (_NO_CORE, _NO_CORE))
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        if not privileged:
            _drop_all()  # whoever it will be, it is this one
        listener = kernel.install_filter(program, listener=True)
        report.send({"event": "waiting"}, descriptors=(listener,))
        os.close(listener)
        _rehearse(report)
        job, _, outputs = report.receive()
        _check(job)
        _limit(job["limits"], isolated)
        _become(job["identity"], privileged, isolated)
        # Changing ids made us undumpable: the supervisor's notifier must read our memory.
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
        report.receive()  # the sandbox is as the job wants it
        _redirect(job["stdin_size"] > 0, outputs)
        _enter(job["cwd"], job["identity"]["name"])
        source = _submitted(job["name"])
        report.send({"event": "started"})
        # Nothing of ours stays open: 0, 1 and 2 are the script's.
        report.socket.detach()
        kernel.close_range(3)
    except Closed:
        os._exit(1)
    except RunnerError as error:
        _fail(report, error)
    except OSError as error:
        reason = f"{error.strerror or error} {error.filename or ''}".strip()
        _fail(report, RunnerError("sandbox_unavailable", reason=reason, remedy=""))
    run(job, source)


def _rehearse(report: Channel) -> None:
    """Go through the motions of a job that is none, and forget all that a script must not see."""
    job, _, outputs = report.receive()
    _check(job)
    for descriptor in outputs:
        os.close(descriptor)
    resource.getrlimit(resource.RLIMIT_NOFILE)
    python.settle(job["environment"])
    report.send({"event": "rehearsed"})


def _check(job: Header) -> None:
    """Refuse what no execve(2) could be given, while there is somebody to tell."""
    environment: Dict[str, str] = job["environment"]
    words = [*job["arguments"], job["cwd"], *environment, *environment.values()]
    reason = None
    if any("=" in name or not name for name in environment):
        reason = "an empty name of a variable, or one with '='"
    elif any("\0" in word for word in words):
        reason = "an argument, a variable or the directory has a NUL byte in it"
    elif job["kind"] == "command" and not job["arguments"]:
        reason = "a command without a program"
    else:
        try:
            os.fsencode("".join(words))
        except UnicodeEncodeError:
            reason = "an argument, a variable or the directory is no text and no bytes"
    if reason is not None:
        raise RunnerError("invalid_request", method="run", reason=reason)


def _fail(report: Channel, error: RunnerError) -> NoReturn:
    report.send(error.header())
    os._exit(1)


def _isolate(report: Channel) -> bool:
    """Enter a user namespace that maps every id to itself, with the capabilities of files only.

    Under it an identity of root is root over files and nothing else, and an ordinary one has a
    process count of its own. Where user namespaces are switched off only the latter can run.
    """
    last = kernel.last_capability()
    kept = sum(1 << kernel.CAPABILITIES[name] for name in _FILE_CAPABILITIES)
    try:
        kernel.unshare(kernel.CLONE_NEWUSER)
    except OSError:
        return False
    report.send({"event": "map"})
    report.receive()
    kernel.drop_bounding(kept, last)
    return True


def _submitted(name: str) -> bytes:
    with open(f"{SCRIPT_DIRECTORY}/script/{name}", "rb") as file:
        return file.read()


def _redirect(has_stdin: bool, outputs: Sequence[int]) -> None:
    path = f"{SCRIPT_DIRECTORY}/input/stdin" if has_stdin else "/dev/null"
    stdin = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    for descriptor, standard in ((stdin, 0), (outputs[0], 1), (outputs[1], 2)):
        os.dup2(descriptor, standard, inheritable=True)


def _limit(limits: Dict[str, int], isolated: bool) -> None:
    """Resource limits of each process; the supervisor and cgroups limit the whole.

    RLIMIT_AS is per process (getrlimit(2)). RLIMIT_NPROC counts within the user namespace, and
    never holds for uid 0.
    """
    wanted = [
        (resource.RLIMIT_FSIZE, limits["written_bytes"]),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_AS, limits["memory_bytes"]),
    ]
    if isolated:
        wanted.append((resource.RLIMIT_NPROC, limits["processes"]))
    for kind, value in wanted:
        _, hard = resource.getrlimit(kind)
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        resource.setrlimit(kind, (value, value))


def _become(identity: Header, privileged: bool, isolated: bool) -> None:
    """Take the identity and give up every capability that is not its own."""
    root = privileged and identity["uid"] == 0
    if root and not isolated:
        reason = "a script as root needs a user namespace, and they are switched off here"
        remedy = "Set user.max_user_namespaces above 0."
        raise RunnerError("sandbox_unavailable", reason=reason, remedy=remedy)
    if privileged:
        if not root:
            kernel.drop_bounding(0, kernel.last_capability())
        os.setgroups(identity["groups"])
        os.setresgid(identity["gid"], identity["gid"], identity["gid"])
        os.setresuid(identity["uid"], identity["uid"], identity["uid"])
        kept = sum(1 << kernel.CAPABILITIES[name] for name in _FILE_CAPABILITIES) if root else 0
        kernel.set_capabilities(kept)
    os.umask(identity["umask"])


def _drop_all() -> None:
    kernel.drop_bounding(0, kernel.last_capability())
    kernel.set_capabilities(0)


def _enter(cwd: str, identity: str) -> None:
    try:
        os.chdir(cwd)
    except OSError as error:
        raise RunnerError(
            "directory_not_entered", identity=identity, path=cwd, reason=error.strerror
        ) from error


def run(job: Header, source: bytes) -> NoReturn:
    """Run what was submitted in this process."""
    kind: str = job["kind"]
    arguments: List[str] = job["arguments"]
    environment: Dict[str, str] = job["environment"]
    shown: str = job["shown"]
    if kind == "python":
        python.run(source, shown, arguments, environment)
    if kind == "shell":
        text = os.fsdecode(source)
        execute("/bin/sh", ["/bin/sh", "-c", text, shown, *arguments], environment)
    if kind == "command":
        execute(arguments[0], arguments, environment)
    interpreter = shebang(source)
    path = _own_path(job["path"], job["name"], source)
    if interpreter is None and not source.startswith(b"\x7fELF"):
        python.run(source, path, arguments, environment)
    if interpreter is None:
        execute(path, [path, *arguments], environment)
    if python.is_this_interpreter(interpreter, environment.get("PATH", "")):
        python.run(source, path, arguments, environment)
    execute(interpreter[0], [*interpreter, path, *arguments], environment)


def _own_path(path: Optional[str], name: str, source: bytes) -> str:
    """Where the script stands: its own path if just these bytes are there, else our copy.

    A script that looks beside itself ($0, __file__) then finds what it expects.
    """
    copy = f"{SCRIPT_DIRECTORY}/script/{name}"
    if path is None:
        return copy
    try:
        with open(path, "rb") as file:
            return path if file.read(len(source) + 1) == source else copy
    except OSError:
        return copy


def execute(program: str, argv: List[str], environment: Dict[str, str]) -> NoReturn:
    """execve `program`, searched on PATH unless it has a slash; exit 126 or 127 as a shell does."""
    # Python ignores these; a program expects the default (signal(7)).
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    try:
        if "/" in program:
            os.execve(program, argv, environment)
        _search(program, argv, environment)
    except OSError as error:
        sys.stderr.write(f"{program!r}: {error.strerror}\n")
        sys.stderr.flush()
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


def _search(program: str, argv: List[str], environment: Dict[str, str]) -> NoReturn:
    """Become the first of that name on PATH which can be executed.

    os.execvpe would import a module for it, and try (so have the filter tell) every directory.

    :raises OSError: there is none.
    """
    failure: Optional[OSError] = None
    for directory in environment.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.join(directory, program)
        try:
            os.stat(path)
            os.execve(path, argv, environment)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            failure = failure or error
    raise failure or FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), program)
