"""The daemon's configuration: TOML files to frozen dataclasses, strictly.

One main file and, beside it, drop-ins in `NAME.toml.d/*.toml`, read in the order of their
names; a later value replaces an earlier one key by key. A key that nobody knows, a value
of another type or a file that is no TOML is an error that names file and key: a broken
file is never read as "the defaults".
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from shannotd.policy.profiles import Profile, builtin_profiles, merge
from shannotd.wire.decode import decode
from shannotd.wire.errors import ConfigError

Section = TypeVar("Section")
Table = Mapping[str, object]

_ROLE_RULE = re.compile(r"uid:[0-9]{1,10}|[A-Za-z0-9_.][A-Za-z0-9_.@-]{0,63}")
_PROFILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class DaemonSettings:
    """`[daemon]`. Sizes in bytes, times in seconds, numbers of sessions per submitter.

    `max_connections` and `max_unfinished_bytes` (of messages that were begun and not finished)
    are per account; `max_total_connections` is by default what the limit of open files allows.
    `ttl_seconds` is the longest that a plan waits for a decision, whatever its profile says.
    `dbus` says whether the daemon is to be on its bus, and to ask polkit.
    """

    max_script_bytes: int = 8 * 1024 * 1024
    max_running: int = 32
    max_pending: int = 100
    max_connections: int = 256
    max_total_connections: int | None = None
    max_unfinished_bytes: int = 64 * 1024 * 1024
    max_submissions_per_minute: int = 30_000
    max_unread_bytes: int = 16 * 1024 * 1024
    idle_seconds: float = 600.0
    ttl_seconds: float | None = None
    pool_size: int = 2
    default_profile: str = "default"
    state_directory: str | None = None
    runner_socket: str | None = None
    dbus: bool = True


@dataclass(frozen=True)
class RoleRules:
    """`[roles]`: who has which role, as names of groups or `uid:N`. Service mode only."""

    submit: tuple[str, ...] = ("shannot", "uid:0")
    review: tuple[str, ...] = ("shannot-review", "uid:0")
    audit: tuple[str, ...] = ("shannot-review", "uid:0")
    admin: tuple[str, ...] = ("uid:0",)


@dataclass(frozen=True)
class CheckpointSettings:
    """`[checkpoints]`: for how many seconds, and in how many bytes together, what sessions replaced
    is kept, so that they can be rolled back."""

    max_age_seconds: float = 30 * 86400.0
    max_bytes: int = 10 * 1024 * 1024 * 1024


@dataclass(frozen=True)
class Config:
    """All that a daemon is told; `files` are those that were read."""

    daemon: DaemonSettings = DaemonSettings()
    roles: RoleRules = RoleRules()
    checkpoints: CheckpointSettings = CheckpointSettings()
    profiles: Mapping[str, Profile] = field(default_factory=builtin_profiles)
    files: tuple[Path, ...] = ()


def load(path: Path, *, required: bool = False, embedded: bool = False) -> Config:
    """The configuration of `path` and its drop-ins over the built-in defaults.

    :param required: whether `path` itself must exist.
    :param embedded: whether it is for a daemon that serves one account only.
    :raises ConfigError: naming the file and the key.
    """
    config = Config(profiles=MappingProxyType(builtin_profiles()))
    for file in _files(path, required):
        config = _merge_file(config, file)
    if config.daemon.default_profile not in config.profiles:
        known = ", ".join(sorted(config.profiles))
        raise ConfigError(
            path=str(path),
            reason=f"daemon.default_profile: no profile {config.daemon.default_profile!r}"
            f" (known: {known})",
        )
    if embedded:
        _check_one_account(config, path)
    return config


def _check_one_account(config: Config, path: Path) -> None:
    """Refuse plans that one account alone could never have approved."""
    for name, profile in config.profiles.items():
        if profile.approvals > 1:
            raise ConfigError(
                path=str(path),
                reason=f"profiles.{name}.approvals: {profile.approvals} people must approve, but an"
                " embedded daemon serves one account only; set it to 1 or use the service",
            )


def _files(path: Path, required: bool) -> list[Path]:
    directory = path.with_name(path.name + ".d")
    try:
        # Whatever has that name is meant to be read: a dangling link is an error, not a default.
        files = [path] if required or _is_there(path) else []
        if directory.is_dir():
            files += sorted(file for file in directory.iterdir() if file.suffix == ".toml")
    except OSError as error:
        name = error.filename or str(directory)
        raise ConfigError(path=str(name), reason=error.strerror or str(error)) from error
    return files


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _merge_file(config: Config, file: Path) -> Config:
    """`config` with what `file` says.

    :raises ConfigError: the file cannot be used.
    """
    try:
        content = tomllib.loads(file.read_bytes().decode("utf-8"))
        _refuse_unknown(content, ("daemon", "roles", "checkpoints", "profiles"), "")
        return replace(
            config,
            daemon=_check_daemon(_section(config.daemon, content, "daemon")),
            roles=_check_roles(_section(config.roles, content, "roles")),
            checkpoints=_check_checkpoints(_section(config.checkpoints, content, "checkpoints")),
            profiles=MappingProxyType(_profiles(config.profiles, _table(content, "profiles"))),
            files=(*config.files, file),
        )
    except OSError as error:
        raise ConfigError(path=str(file), reason=error.strerror or str(error)) from error
    except ValueError as error:  # TOML, UTF-8 and every check below
        raise ConfigError(path=str(file), reason=str(error)) from error


def _table(content: Table, name: str) -> Table:
    table = content.get(name, {})
    if not isinstance(table, Mapping):
        raise ValueError(f"{name}: expected a table")
    return table


def _section(current: Section, content: Table, name: str) -> Section:
    """`current` with the keys of the table `name` replaced, each checked for its type."""
    table = _table(content, name)
    known = [entry.name for entry in fields(current)]  # type: ignore[arg-type]
    _refuse_unknown(table, known, f"{name}.")
    unchanged = {key: getattr(current, key) for key in known}
    return decode(type(current), {**unchanged, **table}, name)


def _refuse_unknown(table: Table, known: list[str] | tuple[str, ...], prefix: str) -> None:
    for key in table:
        if key not in known:
            raise ValueError(f"{prefix}{key}: unknown key (known: {', '.join(known)})")


def _check_numbers(settings: DaemonSettings | CheckpointSettings, section: str) -> None:
    for entry in fields(settings):
        value = getattr(settings, entry.name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            least = 0 if entry.name == "pool_size" else 1
            if not least <= value < 2**53:
                raise ValueError(f"{section}.{entry.name}: must be at least {least}")


def _check_checkpoints(settings: CheckpointSettings) -> CheckpointSettings:
    _check_numbers(settings, "checkpoints")
    return settings


def _check_daemon(settings: DaemonSettings) -> DaemonSettings:
    _check_numbers(settings, "daemon")
    for name in ("state_directory", "runner_socket"):
        value = getattr(settings, name)
        if value is not None and (not value.startswith("/") or "\0" in value):
            raise ValueError(f"daemon.{name}: must be an absolute path")
    return settings


def _check_roles(rules: RoleRules) -> RoleRules:
    for entry in fields(rules):
        for rule in getattr(rules, entry.name):
            if not _ROLE_RULE.fullmatch(rule):
                raise ValueError(f"roles.{entry.name}: {rule!r} is no group name and no uid:N")
    return rules


def _profiles(current: Mapping[str, Profile], tables: Table) -> dict[str, Profile]:
    """The profiles with those of a file laid over them; a new one begins as its `base`."""
    profiles = dict(current)
    for name in tables:
        overrides = dict(_table(tables, name))
        if not _PROFILE_NAME.fullmatch(name):
            raise ValueError(f"profiles.{name}: a profile's name is letters, digits, _ . -")
        base = overrides.pop("base", name if name in profiles else "default")
        if not isinstance(base, str) or base not in profiles:
            known = ", ".join(sorted(profiles))
            raise ValueError(f"profiles.{name}.base: no such profile (known: {known})")
        try:
            profiles[name] = replace(merge(profiles[base], overrides), name=name)
        except ValueError as error:
            raise ValueError(f"profiles.{name}: {error}") from error
    return profiles
