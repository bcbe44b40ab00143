"""A single-threaded process that observes programs for tests, and the naive way beside it."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Observations are forks: a test process has threads, so it asks this one.
_SERVER = """
import json, os, resource, sys
from shannotd.runner import identity, observe, sandbox
from shannotd.runner.frames import RunnerError
from shannotd.runner.warm import Settings

floor = identity.Floor(identities=tuple(json.loads(sys.argv[1])) or None)
settings = Settings(sandbox.choose_builder(), b"", "/nonexistent", tuple(sys.argv[3:]))
observe.prepare()
for line in sys.stdin:
    request = json.loads(line)
    printed = {"stdout": [], "stderr": []}
    closing = request.pop("closing")
    who = identity.resolve(request.pop("run_as"), identity.Floor())[0]
    for name in ("argv", "hide", "sockets", "groups", "shows"):
        request[name] = tuple(request.get(name, ()))
    def take(stream, data):
        printed[stream].append(data.decode("latin-1"))
        if closing == "broken":
            raise BrokenPipeError
        if closing == "timeout":
            raise TimeoutError
    try:
        cancel = None
        if closing == "cancel":
            cancel, other = os.pipe()
            os.close(other)
        if closing == "no files":
            _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, most))
        wanted = observe.Observation(identity=who, **request)
        seen = observe.observe(wanted, take, settings, cancel, floor)
        answer = seen.header()
        if cancel is not None:
            os.close(cancel)
    except RunnerError as error:
        answer = error.header()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.getrlimit(resource.RLIMIT_FSIZE)[1],) * 2)
    answer.update({name: "".join(parts) for name, parts in printed.items()})
    answer["descriptors"] = len(os.listdir("/proc/self/fd"))
    answer["children"] = open(f"/proc/self/task/{os.getpid()}/children").read().split()
    print(json.dumps(answer), flush=True)
"""


@dataclass(frozen=True)
class Seen:
    """What came back of one observation."""

    exit_code: int | None
    signal: int | None
    stopped: str | None
    truncated: list[str]
    stdout: str
    stderr: str
    error: dict[str, Any] | None
    descriptors: int
    children: list[str]


class ObserverProcess:
    """A running observer, and the identity that its programs get."""

    def __init__(
        self, process: subprocess.Popen[str], uid: int, run_as: str | None, as_root: bool
    ) -> None:
        self.process = process
        self.uid = uid
        self.run_as = run_as
        self.as_root = as_root

    def start(self, *argv: str, program: str | None = None, **more: Any) -> None:
        """Begin an observation; `end` waits for it."""
        request = {
            "program": program or argv[0],
            "argv": argv,
            "hide": [],
            "sockets": [],
            "as_root": self.as_root,
            "run_as": self.run_as,
            "closing": None,
            **more,
        }
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()

    def end(self) -> Seen:
        """Wait for what was begun."""
        assert self.process.stdout is not None
        answer = json.loads(self.process.stdout.readline())
        failed = answer["event"] == "error"
        fields = {name: answer.get(name) for name in Seen.__annotations__}
        fields["error"] = {"code": answer["code"], **answer["details"]} if failed else None
        return Seen(**fields)

    def run(self, *argv: str, **more: Any) -> Seen:
        """One observation; see observe.Observation."""
        self.start(*argv, **more)
        return self.end()

    def python(self, code: str, *arguments: str, **more: Any) -> Seen:
        """Observe the host's Python: the most that a program could try."""
        return self.run("/usr/bin/python3", "-I", "-c", code, *arguments, **more)

    def naive(
        self,
        *argv: str,
        environment: Mapping[str, str] | None = None,
        **more: Any,
    ) -> subprocess.CompletedProcess[str]:
        """The same program as the same uid, only on the host as it is."""
        identity: dict[str, Any] = {}
        if os.geteuid() == 0 and self.uid != 0:
            identity = {
                "user": self.uid,
                "group": pwd.getpwuid(self.uid).pw_gid,
                "extra_groups": [],
            }
        return subprocess.run(
            argv,
            env={"PATH": "/usr/bin:/bin", **(environment or {})},
            capture_output=True,
            text=True,
            check=False,
            **{"cwd": "/", **identity, **more},
        )

    def naive_python(self, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The same as `python`, on the host as it is."""
        return self.naive("/usr/bin/python3", "-I", "-c", code, *arguments)


@contextmanager
def running_observer(
    code: Path,
    *,
    account: str | None,
    run_as: str | None = None,
    as_root: bool = False,
    floor: Sequence[str] = (),
    hidden: Sequence[str] = (),
    within: Sequence[str] = (),
) -> Iterator[ObserverProcess]:
    """An observer of `account`'s (None: the tests' own), whose programs get `run_as`.

    `within` is a command that it is started by.
    """
    options: dict[str, Any] = {}
    if account is not None:
        entry = pwd.getpwnam(account)
        options = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    process = subprocess.Popen(
        [
            *within,
            sys.executable if account is None else "/usr/bin/python3",
            *("-c", _SERVER, json.dumps(list(floor)), "--", *hidden),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(code), "PYTHONDONTWRITEBYTECODE": "1"},
        **options,
    )
    if as_root:
        uid = 0
    elif run_as is not None or account is not None:
        uid = pwd.getpwnam(str(run_as or account)).pw_uid
    else:
        uid = os.geteuid()
    try:
        with process:
            yield ObserverProcess(process, uid, run_as, as_root)
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(20) == 0
    finally:
        process.kill()


def merged(files: Mapping[str, str], *argv: str, **environment: str) -> str:
    """What `argv` prints in the host's namespaces over the host's tree with `files` laid over it.

    That is a program run naively inside of the sandbox's tree. Root's privilege.
    """
    script = r"""
mount --make-rprivate / && mount -t tmpfs stage /run && cd /run && mkdir upper work root
while [ "$1" != -- ]; do
    mkdir -p "upper$(dirname "$1")" && printf '%s' "$2" > "upper$1" && shift 2
done
mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work stage root && shift
mount --rbind /proc root/proc && exec chroot root "$@"
"""
    planted = [word for item in files.items() for word in item]
    done = subprocess.run(
        ["unshare", "--mount", "/bin/sh", "-c", script, "naive", *planted, "--", *argv],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.stdout.decode(errors="replace")
