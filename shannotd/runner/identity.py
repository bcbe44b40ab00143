"""Under whom a script runs: resolved on the host, limited by the root-owned floor.

The floor is `/etc/shannot/runner.conf` (INI), read by the runner itself whenever it builds a
sandbox or applies a plan, so that a daemon that was taken over cannot widen it:

    [identities]
    allowed = shannot, www-data
    [paths]
    protected = /etc/sudoers, /etc/sudoers.d
    [programs]
    protected = /usr/sbin/visudo, /opt/admin
"""

from __future__ import annotations

import hashlib
import os
import pwd
import stat
from dataclasses import dataclass
from functools import lru_cache
from typing import Dict, List, Optional, Tuple

from shannotd.runner.frames import RunnerError
from shannotd.runner.plan import Identity

FLOOR_FILE = "/etc/shannot/runner.conf"
UMASK = 0o022


@dataclass(frozen=True)
class Floor:
    """What no daemon and no approval can widen. None allows every identity.

    No plan changes a path of `protected` or below it, or runs a program of `programs` or below.
    `own` are no part of the file: the directories in which the runner and the daemon work, which
    no plan changes either.
    """

    identities: Optional[Tuple[str, ...]] = None
    protected: Tuple[str, ...] = ()
    programs: Tuple[str, ...] = ()
    own: Tuple[str, ...] = ()


def read_floor(path: str = FLOOR_FILE) -> Floor:
    """The floor in `path`; the widest one where there is no such file.

    :raises RunnerError: the file is not root's alone, or is not valid (fail closed, P8).
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        with open(path, encoding="utf-8", opener=lambda name, _: os.open(name, flags)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise RunnerError("config", path=path, reason="it is no regular file")
            if status.st_uid != 0 or stat.S_IMODE(status.st_mode) & 0o022:
                raise RunnerError("config", path=path, reason="others than root may write it")
            text = file.read()
    except FileNotFoundError:
        return Floor()
    except OSError as error:
        raise RunnerError("config", path=path, reason=error.strerror) from error
    except UnicodeDecodeError as error:
        raise RunnerError("config", path=path, reason=str(error)) from error
    return _floor(path, text)


def _floor(path: str, text: str) -> Floor:
    import configparser  # where there is a file, the zygote has imported it for all

    # No section is the default of others: what stood there would be overlooked.
    parser = configparser.ConfigParser(interpolation=None, default_section="")
    try:
        parser.read_string(text, path)
    except configparser.Error as error:
        raise RunnerError("config", path=path, reason=str(error)) from error
    known = {"identities": {"allowed"}, "paths": {"protected"}, "programs": {"protected"}}
    for section in parser.sections():
        for key in parser[section]:
            if key not in known.get(section, set()):
                raise RunnerError("config", path=path, reason=f"unknown key [{section}] {key}")
    identities = parser.get("identities", "allowed", fallback=None)
    return Floor(
        None if identities is None else tuple(_words(identities)),
        tuple(_words(parser.get("paths", "protected", fallback=""))),
        tuple(_words(parser.get("programs", "protected", fallback=""))),
    )


def _words(value: str) -> List[str]:
    return [word.strip() for word in value.replace("\n", ",").split(",") if word.strip()]


def resolve(run_as: Optional[str], floor: Floor) -> Tuple[Identity, Dict[str, str]]:
    """The identity called `run_as` (a name or uid; None: the runner's own) and its environment.

    The environment holds HOME, USER, LOGNAME and SHELL of the account.

    :raises RunnerError: `identity_refused`: unknown, not in the floor, or not ours to take.
    """
    own = os.geteuid()
    try:
        if run_as is None:
            entry = pwd.getpwuid(own)
        elif run_as.isdigit():
            entry = pwd.getpwuid(int(run_as))
        else:
            entry = pwd.getpwnam(run_as)
    except KeyError:
        name = run_as if run_as is not None else str(own)
        raise RunnerError("identity_refused", identity=name, reason="no such account") from None
    if own not in (0, entry.pw_uid):
        reason = "a runner of an ordinary account runs scripts as that account only"
        raise RunnerError("identity_refused", identity=entry.pw_name, reason=reason)
    if floor.identities is not None and entry.pw_name not in floor.identities:
        reason = f"{FLOOR_FILE} does not allow it"
        raise RunnerError("identity_refused", identity=entry.pw_name, reason=reason)
    groups = os.getgroups()
    if own == 0:
        groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    identity = Identity(
        entry.pw_name, entry.pw_uid, entry.pw_gid, tuple(sorted(set(groups))), UMASK
    )
    environment = {
        "HOME": entry.pw_dir,
        "USER": entry.pw_name,
        "LOGNAME": entry.pw_name,
        "SHELL": entry.pw_shell or "/bin/sh",
    }
    return identity, environment


def check(identity: Identity) -> Floor:
    """The host's floor, which must allow `identity`; and this process must be able to be it.

    :raises RunnerError: `identity_refused`.
    """
    floor = read_floor()
    reason = None
    if floor.identities is not None and identity.name not in floor.identities:
        reason = f"{FLOOR_FILE} does not allow it"
    elif os.geteuid() not in (0, identity.uid):
        reason = f"this runner has uid {os.geteuid()} and cannot become uid {identity.uid}"
    elif os.geteuid() != 0 and os.getegid() != identity.gid:
        reason = f"this runner has gid {os.getegid()} and cannot become gid {identity.gid}"
    if reason is not None:
        raise RunnerError("identity_refused", identity=identity.name, reason=reason)
    return floor


@lru_cache(maxsize=1)
def machine() -> str:
    """What identifies this host for good: the SHA-256 of its machine id (machine-id(5)).

    Hashed since the id itself is confidential.
    """
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        try:
            with open(path, "rb") as file:
                content = file.read().strip()
        except OSError:
            continue
        if content:
            return hashlib.sha256(b"shannot:" + content).hexdigest()
    return hashlib.sha256(b"shannot-host:" + os.uname().nodename.encode()).hexdigest()
