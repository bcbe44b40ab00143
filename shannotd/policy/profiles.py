"""Profiles: the named sets of rules and limits under which sessions run.

The built-in ones are data (`profiles/*.toml` in this package). `hide` and `scratch` are path
patterns as `shannotd.policy.globs` explains them; in the data and in overrides, `~/x` stands
for x in /root and in every home below /home.

- What matches a `hide` pattern is masked in the sandbox, a directory with all that is in it.
- What matches a `scratch` pattern is shown folded and is not applied, unless it matches an
  `apply_scratch` pattern, too.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from importlib.resources.abc import Traversable

from shannotd.policy.globs import expand_home, translate
from shannotd.policy.patterns import command_pattern
from shannotd.wire.decode import decode, encode

ON_FAILURE = ("rollback", "keep")

# A script does not see what the host has there.
_FRESH = ("/run/", "/var/run/", "/dev/", "/proc/", "/sys/")

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ACCOUNT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}\$?")


@dataclass(frozen=True)
class Limits:
    """What one dry run may use; to reach a limit stops it.

    `wall_seconds` of time, `output_bytes` of standard output and as many of standard error,
    `written_bytes` of files, `processes` at once, `memory_bytes` of memory, `open_files` of
    one process, `steps` of a plan. `command_memory_bytes` and `command_processes` are those of a
    command when the plan is applied; without them it has no such limit.
    """

    wall_seconds: float = 60.0
    output_bytes: int = 1024 * 1024
    written_bytes: int = 1024 * 1024 * 1024
    processes: int = 256
    memory_bytes: int = 2 * 1024 * 1024 * 1024
    open_files: int = 1024
    steps: int = 100_000
    command_memory_bytes: int | None = None
    command_processes: int | None = None


@dataclass(frozen=True)
class Profile:
    """A named set of rules and limits.

    `run_as` names the account of the scripts (None: the daemon's own), `environment` is what
    they find beside HOME, USER, LOGNAME and SHELL of that account, `approvals` how many distinct
    people must approve, `ttl_seconds` how long a plan waits for them, `on_failure` whether a plan
    that stops midway is rolled back (`rollback`) or left (`keep`). `auto_approve` and
    `always_deny` are patterns of commands (shannotd.policy.patterns).
    """

    name: str
    run_as: str | None = None
    hide: tuple[str, ...] = ()
    scratch: tuple[str, ...] = ()
    apply_scratch: tuple[str, ...] = ()
    limits: Limits = Limits()
    environment: Mapping[str, str] = field(default_factory=dict)
    approvals: int = 1
    ttl_seconds: float = 3600.0
    on_failure: str = "rollback"
    auto_approve: tuple[str, ...] = ()
    always_deny: tuple[str, ...] = ()

    @property
    def folded(self) -> tuple[str, ...]:
        """The patterns of scratch as a runner takes them, with `!` before each exception."""
        return (*self.scratch, *(f"!{pattern}" for pattern in self.apply_scratch))


def builtin_profiles() -> dict[str, Profile]:
    """The profiles that come with the package, by name."""
    return dict(_builtin_profiles())


def merge(profile: Profile, overrides: Mapping[str, object]) -> Profile:
    """`profile` with the keys of `overrides` in place of its own.

    The tables `limits` and `environment` are laid over key by key. `hide_add` and `scratch_add`
    add to the lists instead of replacing them.

    :raises ValueError: naming the key that is unknown, of another type or out of range.
    """
    known = [entry.name for entry in fields(Profile)]
    for key in overrides:
        if key not in known and key not in ("hide_add", "scratch_add"):
            raise ValueError(f"{key}: unknown key (known: {', '.join(known)})")
    changed: dict[str, object] = {name: getattr(profile, name) for name in known}
    for key, value in overrides.items():
        if key == "limits":
            changed[key] = _merge_limits(profile.limits, _table(value, key))
        elif key == "environment":
            changed[key] = {**profile.environment, **_table(value, key)}
        elif key in ("hide", "scratch", "apply_scratch"):
            changed[key] = _patterns(value, key)
    for name in ("hide", "scratch"):
        if f"{name}_add" in overrides:
            added = _patterns(overrides[f"{name}_add"], f"{name}_add")
            current = decode(_Names, {"names": changed[name]}).names
            changed[name] = (*current, *(entry for entry in added if entry not in current))
    for key in ("name", "run_as", "approvals", "ttl_seconds", "on_failure"):
        changed[key] = overrides.get(key, changed[key])
    for key in ("auto_approve", "always_deny"):
        changed[key] = overrides.get(key, changed[key])
    return _checked(_decoded(changed))


def policy_version(profile: Profile) -> str:
    """What a plan's digest says of the policy that was in force: a SHA-256, in hex, of the
    profile and of the package's own rules."""
    canonical = json.dumps(
        encode(profile), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )
    return hashlib.sha256(f"{canonical}\n{_data_hash()}".encode("ascii")).hexdigest()


@dataclass(frozen=True)
class _Names:
    names: tuple[str, ...]


@functools.cache
def _builtin_profiles() -> Mapping[str, Profile]:
    profiles = {}
    for file in _profile_files():
        name = file.name.removesuffix(".toml")
        profiles[name] = merge(Profile(name), tomllib.loads(file.read_text("utf-8")))
    return profiles


@functools.cache
def _data_hash() -> str:
    content = b"".join(
        hashlib.sha256(file.name.encode()).digest() + hashlib.sha256(file.read_bytes()).digest()
        for file in _data_files()
    )
    return hashlib.sha256(content).hexdigest()


def _data_files() -> list[Traversable]:
    """The package's policy data: the risk rules, the rules of programs, the built-in profiles."""
    package = files("shannotd.policy")
    programs = [file for file in package.joinpath("programs").iterdir() if _is_data(file)]
    data = [*_profile_files(), *programs, package.joinpath("risk.toml")]
    return sorted(data, key=lambda file: file.name)


def _profile_files() -> list[Traversable]:
    directory = files("shannotd.policy").joinpath("profiles")
    return [file for file in directory.iterdir() if _is_data(file)]


def _is_data(file: Traversable) -> bool:
    return file.name.endswith(".toml")


def _table(value: object, key: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{key}: expected a table, got {type(value).__name__}")
    return value


def _patterns(value: object, key: str) -> tuple[str, ...]:
    """A list of path patterns with `~/` expanded, each one once."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"{key}: expected a list, got {type(value).__name__}")
    expanded: dict[str, None] = {}
    for number, pattern in enumerate(value):
        if not isinstance(pattern, str):
            raise ValueError(f"{key}[{number}]: expected str, got {type(pattern).__name__}")
        try:
            for each in expand_home(pattern):
                translate(each)
                expanded[each] = None
        except ValueError as error:
            raise ValueError(f"{key}[{number}]: {error}") from None
    return tuple(expanded)


def _merge_limits(limits: Limits, table: Mapping[str, object]) -> Limits:
    known = [entry.name for entry in fields(Limits)]
    for key in table:
        if key not in known:
            raise ValueError(f"limits.{key}: unknown key (known: {', '.join(known)})")
    current = {name: getattr(limits, name) for name in known}
    return decode(Limits, {**current, **table}, "limits")


def _decoded(changed: Mapping[str, object]) -> Profile:
    try:
        return decode(Profile, changed, "profile")
    except ValueError as error:
        raise ValueError(str(error).removeprefix("profile.")) from None


def _checked(profile: Profile) -> Profile:
    """`profile`, whose types are right, if its values are too."""
    _require(_NAME.fullmatch(profile.name), "name", "must be letters, digits, _ . -")
    _require(
        profile.run_as is None or _ACCOUNT.fullmatch(profile.run_as),
        "run_as",
        "must be the name of an account or a uid",
    )
    _require(1 <= profile.approvals <= 100, "approvals", "must be from 1 to 100")
    _require(_positive(profile.ttl_seconds), "ttl_seconds", "must be a time in seconds above 0")
    _require(
        profile.on_failure in ON_FAILURE, "on_failure", f"must be one of {', '.join(ON_FAILURE)}"
    )
    for entry in fields(Limits):
        value = getattr(profile.limits, entry.name)
        _require(value is None or _positive(value), f"limits.{entry.name}", "must be above 0")
    for number, pattern in enumerate(profile.apply_scratch):
        fresh = pattern.startswith(_FRESH)
        _require(not fresh, f"apply_scratch[{number}]", "is in what a sandbox makes anew")
    for key, patterns in (
        ("auto_approve", profile.auto_approve),
        ("always_deny", profile.always_deny),
    ):
        for number, pattern in enumerate(patterns):
            try:
                command_pattern(pattern)
            except ValueError as error:
                raise ValueError(f"{key}[{number}]: {error}") from None
    for name, value in profile.environment.items():
        _require(_VARIABLE.fullmatch(name), f"environment.{name}", "is no name of a variable")
        _require("\0" not in value, f"environment.{name}", "holds a zero byte")
    return replace(profile, environment=dict(profile.environment))


def _require(condition: object, key: str, problem: str) -> None:
    if not condition:
        raise ValueError(f"{key}: {problem}")


def _positive(value: float) -> bool:
    return math.isfinite(value) and 0 < value < 2**53
