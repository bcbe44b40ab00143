"""A warm sandbox: built, waiting for its job, owned from outside."""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import closing
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple

from shannotd.runner import cgroups, identity, kernel, sandbox
from shannotd.runner.concealment import Concealment
from shannotd.runner.frames import Channel, Closed, Header, RunnerError
from shannotd.runner.init import main as init_main
from shannotd.runner.passwords import NO_PASSWORDS, Passwords
from shannotd.runner.plan import Identity
from shannotd.runner.shims import SHIM
from shannotd.runner.uppers import Uppers
from shannotd.runner.usual import NOTHING, Usual
from shannotd.runner.view import View

# The size of a warm stage; a job's own limit replaces it at hand-out.
WARM_SIZE = 1 << 30

# How often a sandbox is built for a host that changes meanwhile, before that is an error.
ATTEMPTS = 3

# An identity and the environment of its account.
Account = Optional[Tuple[Identity, Dict[str, str]]]


class Outdated(Exception):
    """The host has changed what the sandbox copied of it: another one is to take the job."""


@dataclass(frozen=True)
class Settings:
    """What every supervisor of a runner shares; `usual` is what most jobs have."""

    builder: str
    program: bytes
    state: str
    hidden: Tuple[str, ...]
    usual: Usual = NOTHING
    cgroup_base: Optional[cgroups.Base] = None


@dataclass
class Warm:
    """A sandbox that waits for its job; owns its descriptors, its cgroup and its init.

    `script` is the process that becomes the script, by its number inside. `listener` is that of
    its filter, `calls` the socket on which its shims call, which `shim` reads; its pid namespace is
    the inode `pid_namespace`. `channel` leads to its init, `orders` to the process that becomes the
    script. `passwords` are those that its script sees tokens of.
    """

    init: int
    script: int
    channel: Channel
    orders: Channel
    concealment: Concealment
    blueprint: sandbox.Blueprint
    stage: int
    processes: int
    listener: int
    calls: socket.socket
    shim: int
    pid_namespace: int
    namespaces: Tuple[int, ...]
    built_at: float
    mounts: sandbox.MountWatch
    floor: identity.Floor
    account: Account
    cgroup: Optional[cgroups.Cgroup]
    uppers: Uppers
    passwords: Passwords = NO_PASSWORDS
    reaped: bool = False

    def begin(
        self,
        order: Header,
        payload: bytes,
        outputs: Tuple[int, int],
        hide: Sequence[str],
        *,
        just_built: bool = False,
    ) -> None:
        """Have it run the script of `order` (order.py), whose bytes and input are `payload`.

        It prints to `outputs`. What the patterns `hide` name on the host as it is now is hidden.

        :raises Outdated: it was not `just_built`, and the host has changed. Nothing has run.
        """
        limits = order["limits"]
        try:
            self.orders.send(order, descriptors=outputs)
            # The script's process gets ready while the host is looked at.
            found = self.concealment.difference(hide, for_root=order["identity"]["uid"] == 0)
            self.passwords = found.passwords
            views = found.passwords.views
            message = {
                "name": order["name"],
                "script_size": order["script_size"],
                "stdin_size": order["stdin_size"],
                "stage_size": limits["written_bytes"],
                "stage_inodes": sandbox.inodes(limits["steps"]),
                "masked": found.masked,
                "shown": found.shown,
                "views": [[path, len(view)] for path, view in views.items()],
            }
            self.channel.send(message, b"".join((payload, *views.values())))
            # And so does the init.
            if not just_built and self.blueprint.outdated:
                raise Outdated
            self.channel.send({"op": "start"})
        except Closed:
            pass  # Who follows its script finds out why.

    def limit(self, limits: Dict[str, int]) -> None:
        """Bound what all of it together may use, where it has a cgroup with controllers.

        :raises RunnerError: `sandbox_unavailable`.
        """
        if self.cgroup is None:
            return
        try:
            self.cgroup.limit(limits["memory_bytes"], limits["processes"])
        except OSError as error:
            raise sandbox.unavailable("its limits", error) from error

    def reap(self) -> None:
        """Wait for the end of its init, and so of everything in it."""
        if not self.reaped:
            os.waitpid(self.init, 0)
            self.reaped = True

    def close(self) -> None:
        """End it, whatever runs in it, and let go of it."""
        if not self.reaped:
            kill(self.init)
            self.reap()
        self.channel.close()
        self.orders.close()
        self.concealment.close()
        self.mounts.close()
        self.uppers.close()
        self.calls.close()
        held = (self.stage, self.processes, self.listener, self.shim, *self.namespaces)
        for descriptor in held:
            os.close(descriptor)
        if self.cgroup is not None:
            self.cgroup.remove()


def kill(pid: int) -> None:
    """SIGKILL an init of ours that is not reaped yet: everything in its pid namespace dies."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _usual_account(settings: Settings, floor: identity.Floor) -> Account:
    """The identity of most jobs, looked up while nobody waits; None where it is refused."""
    try:
        return identity.resolve(settings.usual.run_as, floor)
    except RunnerError:
        return None


def build(settings: Settings, also_writable: Sequence[str] = ()) -> Warm:
    """A warm sandbox.

    One that cannot be built is tried again: directories of the host may have changed meanwhile.

    :raises RunnerError: `sandbox_unavailable`, or `config`: the runner's floor is not valid.
    """
    floor = identity.read_floor()
    for _ in range(ATTEMPTS - 1):
        try:
            return _build(settings, also_writable, floor)
        except RunnerError:
            continue
    return _build(settings, also_writable, floor)


def _build(settings: Settings, also_writable: Sequence[str], floor: identity.Floor) -> Warm:
    mounts = sandbox.MountWatch()
    try:
        return _build_watched(settings, also_writable, floor, mounts)
    except BaseException:
        mounts.close()
        raise


def _build_watched(
    settings: Settings,
    also_writable: Sequence[str],
    floor: identity.Floor,
    mounts: sandbox.MountWatch,
) -> Warm:
    try:
        ours, theirs = socket.socketpair()
        flags = sandbox.NAMESPACES
        if settings.builder == sandbox.ONE_UID:
            flags |= kernel.CLONE_NEWUSER
        cgroup = cgroups.create(settings.cgroup_base) if settings.cgroup_base else None
        pid = kernel.clone(flags, None if cgroup is None else cgroup.fileno())
    except OSError as error:
        raise sandbox.unavailable("namespaces", error) from error
    if pid == 0:
        ours.close()
        keep = theirs.detach()
        os.dup2(keep, 3)
        kernel.close_range(4)
        init_channel = Channel(socket.socket(fileno=3))
        wanted = sandbox.Wanted(settings.builder, tuple(also_writable), WARM_SIZE)
        init_main(init_channel, wanted, settings.program)
    theirs.close()
    channel = Channel(ours)
    namespaces: List[int] = []
    try:
        namespaces += _namespaces(pid)
        pid_namespace = os.stat(f"/proc/{pid}/ns/pid").st_ino
        if settings.builder == sandbox.ONE_UID:
            write_own_map(pid)
        channel.send({"op": "mapped"})
        event, plan, descriptors = channel.receive()
        if event["event"] != "ready":
            raise RunnerError(event["code"], **event["details"])
    except (Closed, OSError, RunnerError) as error:
        kill(pid)
        os.waitpid(pid, 0)
        channel.close()
        for descriptor in namespaces:
            os.close(descriptor)
        if cgroup is not None:
            cgroup.remove()
        if isinstance(error, OSError):
            raise sandbox.unavailable("mapping the own uid", error) from error
        if isinstance(error, Closed):
            reason = "the sandbox's first process ended while it was built"
            raise RunnerError("sandbox_unavailable", reason=reason, remedy="") from error
        raise
    stage, processes, listener, calls, orders = descriptors
    account = _usual_account(settings, floor)
    for_root = account is not None and account[0].uid == 0
    blueprint = sandbox.Blueprint.decode(plan)
    return Warm(
        init=pid,
        script=event["script"],
        channel=channel,
        orders=Channel(socket.socket(fileno=orders)),
        concealment=Concealment(settings.usual.hide, settings.hidden, for_root=for_root),
        blueprint=blueprint,
        stage=stage,
        processes=processes,
        listener=listener,
        calls=socket.socket(fileno=calls),
        shim=_shim(processes),
        pid_namespace=pid_namespace,
        namespaces=tuple(namespaces),
        built_at=time.monotonic(),
        mounts=mounts,
        floor=floor,
        account=account,
        cgroup=cgroup,
        uppers=Uppers(stage, blueprint.overlays),
    )


def _shim(processes: int) -> int:
    """A readable descriptor, the caller's, of the shim in the sandbox of this /proc."""
    with closing(View(processes)) as tree:
        return tree.read(SHIM)


def _namespaces(pid: int) -> List[int]:
    """Descriptors that keep a sandbox's namespaces until we end.

    Else its last process would take them apart (forty mounts, an overlay among them) while
    somebody waits for its result.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC
    return [os.open(f"/proc/{pid}/ns/{name}", flags) for name in ("mnt", "net", "ipc")]


def write_own_map(pid: int) -> None:
    """Map the own uid and gid to themselves; without privilege nothing else can be mapped."""
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{os.geteuid()} {os.geteuid()} 1"),
        ("gid_map", f"{os.getegid()} {os.getegid()} 1"),
    ):
        with open(f"/proc/{pid}/{name}", "w", encoding="ascii") as file:
            file.write(text)
