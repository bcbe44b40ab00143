"""Dry runs on real overlays without the sandbox around them, and applying what they recorded.

Every mount is made in a namespace of a child's own and goes with it.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from shannotd.runner import apply, identity, kernel, plan, tree
from shannotd.runner.batch import Points
from shannotd.runner.capture import Layer, capture
from shannotd.runner.frames import Channel, RunnerError
from shannotd.runner.plan import FileStep, Identity, Plan

Result = TypeVar("Result")
KEY = b"a key of the tests"
LIMITS = {"steps": 100_000, "written_bytes": 256 << 20}


@dataclass(frozen=True)
class Recording:
    """What a dry run left: steps and notes in order, and the bytes that the steps need."""

    steps: tuple[Any, ...]
    notes: tuple[plan.StepNote, ...]
    contents: dict[str, bytes]


@dataclass
class Applied:
    """What an apply reported: the last word on each step, and the error."""

    steps: dict[int, str] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    needs: list[list[str]] = field(default_factory=list)

    @property
    def code(self) -> str | None:
        return None if self.error is None else self.error["code"]


def who(account: str | None) -> Identity:
    """The identity of `account`, root without one."""
    entry = pwd.getpwnam(account or "root")
    groups = tuple(sorted(set(os.getgrouplist(entry.pw_name, entry.pw_gid))))
    return Identity(entry.pw_name, entry.pw_uid, entry.pw_gid, groups, 0o022)


def ourselves() -> Identity:
    """The identity that the tests run as."""
    return who(pwd.getpwuid(os.geteuid()).pw_name)


@contextmanager
def workplace(owner: Identity) -> Iterator[Path]:
    """A directory of `owner` on the disk's filesystem that every account can reach."""
    top = Path(tempfile.mkdtemp(prefix="shannot-test-", dir="/var/tmp"))
    try:
        top.chmod(0o755)
        for name in ("host", "copy", "layers"):
            (top / name).mkdir()
            os.chown(top / name, owner.uid, owner.gid)
        yield top
    finally:
        remove(top)


def _turn_into(identity: Identity) -> None:
    if os.geteuid() == identity.uid != 0:
        return  # an ordinary user is only ever himself
    os.setgroups(list(identity.groups))
    os.setresgid(identity.gid, identity.gid, identity.gid)
    os.setresuid(identity.uid, identity.uid, identity.uid)


def in_child(work: Callable[[], Result], become: Identity | None = None) -> Result:
    """What `work` returns in a forked child, after it became `become`."""
    answer, question = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(answer)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, 100)
            if become is not None:
                _turn_into(become)
            os.umask(0o022)
            try:
                outcome: tuple[str, Any] = ("value", work())
            except RunnerError as error:
                outcome = ("error", (error.code, error.details))
            except BaseException:
                outcome = ("failure", traceback.format_exc())
            with open(question, "wb") as pipe:
                pickle.dump(outcome, pipe)
            status = 0
        finally:
            os._exit(status)
    os.close(question)
    with open(answer, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    kind, value = pickle.loads(data)
    if kind == "error":
        raise RunnerError(value[0], **value[1])
    assert kind == "value", value
    result: Result = value
    return result


def run_script(text: str, directory: str, account: Identity | None = None) -> None:
    """Run a script as it is run without any sandbox."""

    def work() -> None:
        subprocess.run(
            ["/usr/bin/python3", "-I", "-X", "utf8", "-", directory],
            input=text.encode("utf-8"),
            check=True,
            cwd="/",
        )

    in_child(work, account)


def dry_run(
    top: Path,
    text: str,
    account: Identity,
    *,
    builder: str,
    scratch: Sequence[str] = (),
    limits: Mapping[str, int] = LIMITS,
) -> Recording:
    """Run a script on an overlay over `top`/host and record what it did.

    `builder` is "privileged" or "one-uid", as in the sandbox.
    """
    run = _privileged if builder == "privileged" else _one_uid
    return in_child(lambda: run(top, text, account, scratch, limits))


def _privileged(
    top: Path, text: str, account: Identity, scratch: Sequence[str], limits: Mapping[str, int]
) -> Recording:
    host, layers = top / "host", top / "layers"
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", str(layers), "tmpfs", 0, "mode=755")
    merged = _directories(layers, host, account)
    options = (
        f"lowerdir={host},upperdir={layers}/upper,workdir={layers}/work,"
        "redirect_dir=on,metacopy=off"
    )
    kernel.mount("overlay", str(merged), "overlay", 0, options)
    started = time.time_ns()
    run_script(text, str(merged), account)
    kernel.unmount(str(merged))
    return _capture(top, "trusted.overlay.", started, account, scratch, limits)


def _one_uid(
    top: Path, text: str, account: Identity, scratch: Sequence[str], limits: Mapping[str, int]
) -> Recording:
    host, layers = top / "host", top / "layers"
    os.setgroups(list(account.groups))
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.uid, account.uid, account.uid)
    os.umask(0o022)
    merged = _directories(layers, host, account)
    started = time.time_ns()

    def sandboxed() -> None:
        # Who changed its uid is not dumpable, and then /proc/self is root's.
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
        kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{account.uid} {account.uid} 1")
        Path("/proc/self/gid_map").write_text(f"{account.gid} {account.gid} 1")
        options = f"lowerdir={host},upperdir={layers}/upper,workdir={layers}/work,userxattr"
        kernel.mount("overlay", str(merged), "overlay", 0, options)
        run_script(text, str(merged))

    in_child(sandboxed)
    return _capture(top, "user.overlay.", started, account, scratch, limits)


def _directories(layers: Path, host: Path, account: Identity) -> Path:
    status = host.stat()
    for name in ("upper", "work", "merged"):
        (layers / name).mkdir()
    if os.geteuid() == 0:
        os.chown(layers / "upper", account.uid, account.gid)
    (layers / "upper").chmod(stat.S_IMODE(status.st_mode))
    return layers / "merged"


def _capture(
    top: Path,
    prefix: str,
    started: int,
    account: Identity,
    scratch: Sequence[str],
    limits: Mapping[str, int],
) -> Recording:
    upper = os.open(top / "layers" / "upper", os.O_RDONLY | os.O_DIRECTORY)
    mode = stat.S_IMODE((top / "host").stat().st_mode)
    layer = Layer(str(top / "host"), upper, prefix, root_mode=mode)
    with capture(
        [layer], started_ns=started, scratch=scratch, identity=account, limits=limits
    ) as recorded:
        contents = {sha256: content.read() for sha256, content in recorded.contents.items()}
    for sha256, data in contents.items():
        assert hashlib.sha256(data).hexdigest() == sha256
    os.close(upper)
    return Recording(recorded.steps, recorded.notes, contents)


def plan_of(recording: Recording, account: Identity, session: str = "test-session") -> Plan:
    """The plan of a recording."""
    target = {"kind": "local", "host": identity.machine()}
    return Plan(session, target, account, "1", "rollback", recording.steps)


def apply_plan(
    found: Plan,
    contents: Mapping[str, bytes],
    *,
    points: Points | None = None,
    seal: str | None = None,
    digest: str | None = None,
    state: Path | None = None,
    become: Identity | None = None,
    descriptors: bool = False,
    own: Sequence[str] = (),
) -> Applied:
    """Have `found` applied by a process of its own, as the daemon does it."""
    encoded = plan.canonical(found)
    assert plan.parse(encoded) == found
    ours, theirs = socket.socketpair()
    made = None
    if state is None:
        made = state = Path(tempfile.mkdtemp(prefix="shannot-state-", dir="/var/tmp"))
        state.chmod(0o777)
    child = os.fork()
    if child == 0:
        try:
            ours.close()
            if become is not None:
                _turn_into(become)
            apply.serve(Channel(theirs), key=KEY, state=str(state), own=own, points=points)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    theirs.close()
    try:
        with Channel(ours) as channel:
            return _answer(channel, found.session, encoded, contents, seal, digest, descriptors)
    finally:
        _, status = os.waitpid(child, 0)
        if made is not None:
            shutil.rmtree(made)
        assert status == 0


def _answer(
    channel: Channel,
    session: str,
    encoded: bytes,
    contents: Mapping[str, bytes],
    seal: str | None,
    digest: str | None,
    descriptors: bool,
) -> Applied:
    digest = digest or plan.digest(encoded)
    seal = seal or plan.seal(KEY, session, digest)
    channel.send({"op": "apply", "session": session, "digest": digest, "seal": seal}, encoded)
    applied = Applied()
    while True:
        header, _, _ = channel.receive()
        event = header["event"]
        if event == "need":
            applied.needs.append(header["sha256"])
            if descriptors:
                for sha256 in header["sha256"]:
                    _send_blob(channel, sha256, contents[sha256])
                continue
            data = [contents[sha256] for sha256 in header["sha256"]]
            blobs = [[sha, len(one)] for sha, one in zip(header["sha256"], data, strict=True)]
            channel.send({"op": "blobs", "blobs": blobs}, b"".join(data))
        elif event == "steps":
            for index in range(header["first"], header["last"] + 1):
                applied.steps[index] = header["applied"]
        elif event == "error":
            applied.error = header
        elif event == "command_starting":
            channel.send({"op": "go"})
        elif event not in ("command", "command_output"):
            assert event == "end"
            return applied


def _send_blob(channel: Channel, sha256: str, data: bytes) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        header = {"op": "blob", "sha256": sha256, "size": len(data)}
        channel.send(header, b"", (file.fileno(),))


def over_etc(place: Path, files: Mapping[str, str]) -> None:
    """Have other `files` (paths below /etc) in this process's own mount namespace."""
    kernel.mount("tmpfs", place, "tmpfs", 0, "mode=755")
    for name in ("upper", "work"):
        (place / name).mkdir()
    for name, content in files.items():
        path = place / "upper" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(0o644)
    options = f"lowerdir=/etc,upperdir={place}/upper,workdir={place}/work"
    kernel.mount("overlay", "/etc", "overlay", 0, options)


Snapshot = dict[str, dict[str, Any]]


def snapshot(top: Path | str) -> Snapshot:
    """Everything of a tree that a plan promises, by path; works at any depth.

    An ordinary user looks from a user namespace, where his own modes do not stop him.
    """
    if os.geteuid() == 0:
        return _snapshot(top)
    uid, gid = os.geteuid(), os.getegid()

    def work() -> Snapshot:
        kernel.unshare(kernel.CLONE_NEWUSER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
        return _snapshot(top)

    return in_child(work)


def remove(top: Path) -> None:
    """Remove a tree, of any depth, whatever its modes are."""
    become_root = [] if os.geteuid() == 0 else ["unshare", "--map-root-user"]
    subprocess.run([*become_root, "rm", "-rf", "--one-file-system", str(top)], check=True)


def _snapshot(top: Path | str) -> Snapshot:
    found: Snapshot = {}
    files: dict[tuple[int, int], list[str]] = {}
    directory = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    pending: list[tuple[int, str]] = [(directory, "")]
    found[""] = _described(directory, ".", "", files)
    while pending:
        directory, prefix = pending.pop()
        for name in sorted(os.listdir(directory)):
            path = prefix + name
            found[path] = _described(directory, name, path, files)
            if found[path]["type"] == "directory":
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
                pending.append((os.open(name, flags, dir_fd=directory), path + "/"))
        os.close(directory)
    for names in files.values():
        for name in names:
            found[name]["twins"] = tuple(sorted(names))
    return found


def _described(
    directory: int, name: str, path: str, files: dict[tuple[int, int], list[str]]
) -> dict[str, Any]:
    descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=directory)
    try:
        status = os.fstat(descriptor)
        kind = tree.file_type(status.st_mode)
        one: dict[str, Any] = {
            "type": kind,
            "mode": stat.S_IMODE(status.st_mode),
            "owner": (status.st_uid, status.st_gid),
        }
        # Times are promised where they were set on purpose: all of those are old or far.
        on_purpose = not time.time() - 86400 < status.st_mtime < time.time() + 60
        if on_purpose and kind != "directory":
            one["mtime"] = status.st_mtime_ns
        if kind == "symlink":
            one["target"] = os.readlink(name, dir_fd=directory)
        else:
            where = f"/proc/self/fd/{descriptor}"
            names = os.listxattr(where)
            one["xattrs"] = {name: os.getxattr(where, name) for name in names}
        if kind == "file":
            with open(os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY), "rb") as file:
                one["content"] = hashlib.file_digest(file, "sha256").hexdigest()
            if status.st_nlink > 1:
                files.setdefault((status.st_dev, status.st_ino), []).append(path)
        return one
    finally:
        os.close(descriptor)


def file_steps(recording: Recording) -> list[FileStep]:
    """The file changes of a recording."""
    return [step for step in recording.steps if isinstance(step, FileStep)]
