"""Profiles: what is built in, and overrides that are strict."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shannotd.policy.globs import compile_patterns
from shannotd.policy.profiles import (
    Limits,
    Profile,
    builtin_profiles,
    merge,
    policy_version,
)


def default() -> Profile:
    return builtin_profiles()["default"]


def test_the_default_profile_has_its_limits() -> None:
    assert default().limits == Limits(
        wall_seconds=60.0,
        output_bytes=1 << 20,
        written_bytes=1 << 30,
        processes=256,
        memory_bytes=2 << 30,
        open_files=1024,
        steps=100_000,
    )
    assert default().name == "default"
    assert (default().approvals, default().on_failure) == (1, "rollback")
    assert default().environment["PATH"].split(":")[0] == "/usr/local/sbin"


@pytest.mark.P1
@pytest.mark.parametrize(
    "path",
    [
        "/etc/shadow",
        "/etc/shadow-",
        "/etc/gshadow",
        "/var/backups/shadow.bak",
        "/etc/ssh/ssh_host_ed25519_key",
        "/root/.ssh/id_ed25519",
        "/home/bob/.ssh/id_rsa",
        "/home/bob/.ssh/work.pem",
        "/home/bob/.aws",
        "/home/bob/.kube",
        "/home/bob/.docker/config.json",
        "/root/.gnupg",
        "/root/.netrc",
        "/home/bob/.pgpass",
        "/home/bob/.git-credentials",
        "/home/bob/.local/share/keyrings",
        "/home/bob/.mozilla",
        "/home/bob/.config/google-chrome",
        "/home/bob/.bash_history",
        "/root/.python_history",
        "/etc/shannot/secrets",
        "/var/lib/shannot",
        "/home/bob/.local/state/shannot",
    ],
)
def test_credentials_and_state_are_hidden(path: str) -> None:
    assert compile_patterns(default().hide).fullmatch(path)


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "/etc/ssh/sshd_config", "/home/bob", "/home/bob/.bashrc", "/etc", "/root/.ssh"],
)
def test_what_a_script_needs_is_not_hidden(path: str) -> None:
    assert not compile_patterns(default().hide).fullmatch(path)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/tmp/x", True),
        ("/var/tmp/a/b", True),
        ("/run/x.pid", True),
        ("/home/bob/.cache/pip/x", True),
        ("/srv/app/__pycache__", True),
        ("/srv/app/__pycache__/x.pyc", True),
        ("/srv/app/x.py", False),
        ("/tmp", False),
        ("/var/cache/debconf/config.dat", False),
        ("/etc/nginx/nginx.conf", False),
    ],
)
def test_scratch(path: str, expected: bool) -> None:
    assert bool(compile_patterns(default().scratch).fullmatch(path)) is expected


def test_hide_never_searches_the_whole_file_system() -> None:
    assert [pattern for pattern in default().hide if "**" in pattern] == []


def test_overrides_replace_or_add() -> None:
    merged = merge(
        default(),
        {
            "name": "web",
            "run_as": "www-data",
            "hide_add": ["/srv/secret", "~/x", "/etc/shadow"],
            "scratch": ["/srv/scratch/**"],
            "limits": {"wall_seconds": 5, "steps": 10},
            "environment": {"LANG": "de_DE.UTF-8", "EXTRA": "1"},
            "approvals": 2,
            "ttl_seconds": 60,
            "on_failure": "keep",
            "always_deny": ["reboot"],
        },
    )
    assert merged.hide == (*default().hide, "/srv/secret", "/root/x", "/home/*/x")
    assert merged.scratch == ("/srv/scratch/**",)
    assert merged.limits == replace(default().limits, wall_seconds=5.0, steps=10)
    assert type(merged.limits.wall_seconds) is float
    assert merged.environment == {**default().environment, "LANG": "de_DE.UTF-8", "EXTRA": "1"}
    assert (merged.name, merged.run_as, merged.approvals) == ("web", "www-data", 2)
    assert (merged.ttl_seconds, merged.on_failure) == (60.0, "keep")
    assert (merged.always_deny, merged.auto_approve) == (("reboot",), ())


def test_exceptions_of_scratch_are_told_apart() -> None:
    merged = merge(default(), {"scratch": ["/tmp/**"], "apply_scratch": ["/tmp/app/**", "~/x"]})
    assert merged.folded == ("/tmp/**", "!/tmp/app/**", "!/root/x", "!/home/*/x")


def test_adding_comes_after_replacing() -> None:
    merged = merge(default(), {"hide_add": ["/b"], "hide": ["/a"]})
    assert merged.hide == ("/a", "/b")


def test_nothing_changes_by_no_overrides() -> None:
    assert merge(default(), {}) == default()


@pytest.mark.P8
@pytest.mark.P10
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"wall_seconds": 5}, "wall_seconds: unknown key"),
        ({"limits": {"wall": 5}}, "limits.wall: unknown key"),
        ({"limits": 5}, "limits: expected a table, got int"),
        ({"limits": {"steps": "many"}}, "limits.steps: expected int, got str"),
        ({"limits": {"steps": 1.5}}, "limits.steps: expected int, got float"),
        ({"limits": {"steps": True}}, "limits.steps: expected int, got bool"),
        ({"limits": {"steps": 0}}, "limits.steps: must be above 0"),
        ({"limits": {"command_processes": 0}}, "limits.command_processes: must be above 0"),
        ({"limits": {"command_memory_bytes": ""}}, "limits.command_memory_bytes: expected int"),
        ({"apply_scratch": ["/tmp/x", "/run/x"]}, "apply_scratch[1]: is in what a sandbox makes"),
        ({"apply_scratch": ["tmp"]}, "apply_scratch[0]: 'tmp' is no path pattern"),
        ({"limits": {"wall_seconds": -1.0}}, "limits.wall_seconds: must be above 0"),
        ({"limits": {"wall_seconds": float("inf")}}, "limits.wall_seconds: expected a finite"),
        ({"hide": "/etc"}, "hide: expected a list, got str"),
        ({"hide": [1]}, "hide[0]: expected str, got int"),
        ({"hide": ["/a", "etc/x"]}, "hide[1]: 'etc/x' is no path pattern"),
        ({"scratch_add": ["/a", "/b//c"]}, "scratch_add[1]: '/b//c' has an empty"),
        ({"environment": []}, "environment: expected a table, got list"),
        ({"environment": {"A": 1}}, "environment.A: expected str, got int"),
        ({"environment": {"A=B": "x"}}, "environment.A=B: is no name"),
        ({"environment": {"A": "x\0"}}, "environment.A: holds a zero byte"),
        ({"approvals": 0}, "approvals: must be from 1"),
        ({"approvals": True}, "approvals: expected int, got bool"),
        ({"ttl_seconds": 0}, "ttl_seconds: must be"),
        ({"ttl_seconds": float("nan")}, "ttl_seconds: expected a finite"),
        ({"on_failure": "ignore"}, "on_failure: must be one of rollback, keep"),
        ({"run_as": 0}, "run_as: expected str, got int"),
        ({"run_as": "a b"}, "run_as: must be the name of an account"),
        ({"run_as": ""}, "run_as: must be the name of an account"),
        ({"name": "../x"}, "name: must be"),
        ({"auto_approve": "ls"}, "auto_approve: expected a list, got str"),
        ({"always_deny": [None]}, "always_deny[0]: expected str, got NoneType"),
    ],
)
def test_a_wrong_override_is_named(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        merge(default(), overrides)
    assert str(caught.value).startswith(message)


keys = st.sampled_from([entry.name for entry in fields(Profile)] + ["hide_add", "other"])
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@pytest.mark.P10
@given(st.dictionaries(keys, junk, max_size=3))
def test_any_override_gives_a_profile_or_names_a_key(overrides: dict[str, object]) -> None:
    try:
        merged = merge(default(), overrides)
    except ValueError as error:
        assert str(error).split(":")[0].split(".")[0].split("[")[0] in overrides
    else:
        assert isinstance(merged, Profile)


def test_profiles_are_a_copy_each_time() -> None:
    builtin_profiles().clear()
    assert "default" in builtin_profiles()


@pytest.mark.P2
def test_the_version_follows_every_field() -> None:
    profile = default()
    changes: list[dict[str, object]] = [
        {"name": "other"},
        {"run_as": "bob"},
        {"hide_add": ["/x"]},
        {"scratch_add": ["/x"]},
        {"apply_scratch": ["/x"]},
        {"limits": {"command_processes": 7}},
        {"limits": {"steps": 7}},
        {"environment": {"X": "1"}},
        {"approvals": 2},
        {"ttl_seconds": 7},
        {"on_failure": "keep"},
        {"auto_approve": ["x"]},
        {"always_deny": ["x"]},
    ]
    versions = {policy_version(merge(profile, change)) for change in changes}
    assert len(versions | {policy_version(profile)}) == len(changes) + 1
    assert policy_version(profile) == policy_version(merge(profile, {}))
    assert len(policy_version(profile)) == 64
