"""Configuration: strict, typed, in files and drop-ins."""

from __future__ import annotations

from pathlib import Path

import pytest

from shannotd.config import Config, load
from shannotd.wire.errors import ConfigError


def write(path: Path, text: str) -> Path:
    """A configuration file."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_one_account_cannot_be_several_people(tmp_path: Path) -> None:
    file = tmp_path / "shannotd.toml"
    file.write_text("[profiles.strict]\napprovals = 2\n")
    assert load(file).profiles["strict"].approvals == 2
    with pytest.raises(ConfigError, match=r"profiles\.strict\.approvals: 2 people"):
        load(file, embedded=True)


def test_without_files_there_are_defaults(tmp_path: Path) -> None:
    config = load(tmp_path / "shannotd.toml")
    assert config.daemon == Config().daemon
    assert "default" in config.profiles
    assert config.files == ()


def test_for_how_long_checkpoints_are_kept(tmp_path: Path) -> None:
    file = write(tmp_path / "shannotd.toml", "[checkpoints]\nmax_age_seconds = 86400\n")
    kept = load(file).checkpoints
    assert (kept.max_age_seconds, kept.max_bytes) == (86400, 10 << 30)


def test_drop_ins_replace_key_by_key_in_order(tmp_path: Path) -> None:
    main = write(tmp_path / "shannotd.toml", "[daemon]\nmax_running = 3\npool_size = 5\n")
    write(tmp_path / "shannotd.toml.d" / "20-b.toml", "[daemon]\nmax_running = 9\n")
    write(tmp_path / "shannotd.toml.d" / "10-a.toml", "[daemon]\nmax_running = 7\n")
    write(tmp_path / "shannotd.toml.d" / "readme.txt", "no configuration")
    config = load(main)
    assert (config.daemon.max_running, config.daemon.pool_size) == (9, 5)
    assert [file.name for file in config.files] == ["shannotd.toml", "10-a.toml", "20-b.toml"]


def test_profiles_override_and_begin_as_another(tmp_path: Path) -> None:
    main = write(
        tmp_path / "shannotd.toml",
        """
        [daemon]
        default_profile = "strict"
        [profiles.strict]
        approvals = 2
        limits = { wall_seconds = 5 }
        [profiles.stricter]
        base = "strict"
        ttl_seconds = 60
        """,
    )
    profiles = load(main).profiles
    assert profiles["strict"].name == "strict"
    assert profiles["strict"].approvals == 2
    assert profiles["strict"].hide == profiles["default"].hide
    assert profiles["stricter"].approvals == 2
    assert profiles["stricter"].limits.wall_seconds == 5
    assert profiles["stricter"].ttl_seconds == 60


@pytest.mark.P10
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[daemon\n", "Expected"),
        ("nonsense = 1\n", "nonsense: unknown key"),
        ("daemon = 1\n", "daemon: expected a table"),
        ("[daemon]\nmax_runing = 1\n", "daemon.max_runing: unknown key"),
        ('[daemon]\nmax_running = "3"\n', "daemon.max_running: expected int"),
        ("[daemon]\nmax_running = true\n", "daemon.max_running: expected int"),
        ("[daemon]\nmax_running = 0\n", "daemon.max_running: must be at least 1"),
        ("[daemon]\nidle_seconds = nan\n", "daemon.idle_seconds: expected a finite"),
        ("[daemon]\nidle_seconds = inf\n", "daemon.idle_seconds: expected a finite"),
        ('[daemon]\nstate_directory = "x"\n', "daemon.state_directory: must be an absolute"),
        ('[daemon]\ndefault_profile = "none"\n', "daemon.default_profile: no profile 'none'"),
        ("[checkpoints]\nmax_bytes = 0\n", "checkpoints.max_bytes: must be at least 1"),
        ("[checkpoints]\nmax_age = 1\n", "checkpoints.max_age: unknown key"),
        ('[roles]\nsubmit = "group"\n', "roles.submit: expected a list"),
        ('[roles]\nreview = ["a b"]\n', "roles.review: 'a b' is no group name"),
        ('[roles]\nroot = ["a"]\n', "roles.root: unknown key"),
        ("[profiles]\ndefault = 1\n", "default: expected a table"),
        ("[profiles.default]\nnonsense = 1\n", "profiles.default: nonsense"),
        ('[profiles.default]\napprovals = "1"\n', "profiles.default: "),
        ('[profiles.mine]\nbase = "none"\n', "profiles.mine.base: no such profile"),
        ('[profiles."../x"]\n', "a profile's name"),
    ],
)
def test_what_is_broken_is_named_and_never_ignored(tmp_path: Path, text: str, reason: str) -> None:
    main = write(tmp_path / "shannotd.toml", "[daemon]\npool_size = 1\n")
    broken = write(tmp_path / "shannotd.toml.d" / "50-broken.toml", text)
    with pytest.raises(ConfigError) as caught:
        load(main)
    assert reason in str(caught.value)
    assert caught.value.details["path"] in (str(broken), str(main))


@pytest.mark.P10
def test_other_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "missing.toml", required=True)
    with pytest.raises(ConfigError, match="directory"):
        load(tmp_path)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="utf-8"):
        load(binary)


@pytest.mark.P8
def test_a_dangling_link_is_no_default(tmp_path: Path) -> None:
    path = tmp_path / "shannotd.toml"
    path.symlink_to("nowhere")
    with pytest.raises(ConfigError) as raised:
        load(path)
    assert raised.value.details["path"] == str(path)


@pytest.mark.P8
def test_a_file_in_the_place_of_a_directory_is_no_configuration(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert load(tmp_path / "file" / "shannotd.toml").files == ()
