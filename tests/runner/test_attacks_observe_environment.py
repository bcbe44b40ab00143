"""What a script sets in its environment reaches no observed program (P1).

Each variable makes the same program do something else when it is started naively with it; what it
points to is even on the host, where the observed program could read it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.observing import ObserverProcess

pytestmark = pytest.mark.P1

Attack = Callable[[Path], tuple[list[str], dict[str, str]]]


def script(path: Path, text: str = "echo planted") -> Path:
    """An executable shell script."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def search_path(shelf: Path) -> tuple[list[str], dict[str, str]]:
    script(shelf / "uname")
    return ["/bin/sh", "-c", "uname"], {"PATH": str(shelf)}


def library_path(shelf: Path) -> tuple[list[str], dict[str, str]]:
    (shelf / "planted").mkdir()
    (shelf / "planted/libc.so.6").write_text("no library")
    return ["/bin/true"], {"LD_LIBRARY_PATH": f"{shelf}/planted"}


def preloaded(shelf: Path) -> tuple[list[str], dict[str, str]]:
    return ["/bin/true"], {"LD_PRELOAD": f"{shelf}/planted.so"}


def audited(shelf: Path) -> tuple[list[str], dict[str, str]]:
    return ["/bin/true"], {"LD_AUDIT": f"{shelf}/planted.so"}


def debugged(shelf: Path) -> tuple[list[str], dict[str, str]]:
    return ["/bin/true"], {"LD_DEBUG": "libs", "LD_LIBRARY_PATH": "/planted"}


def locales(shelf: Path) -> tuple[list[str], dict[str, str]]:
    """A locale in which Saturday has another name."""
    source = Path("/usr/lib/locale/C.utf8")
    if not source.is_dir():
        pytest.skip("no compiled locale")
    shutil.copytree(source, shelf / "xx_XX.utf8")
    for path in (shelf / "xx_XX.utf8").rglob("LC_TIME"):
        path.write_bytes(path.read_bytes().replace(b"Saturday", b"planted!"))
    argv = ["/bin/date", "-d", "2026-11-28", "+%A"]
    return argv, {"LOCPATH": str(shelf), "LC_ALL": "xx_XX.UTF-8"}


def conversions(shelf: Path) -> tuple[list[str], dict[str, str]]:
    (shelf / "gconv-modules").write_text("module PLANTED// INTERNAL planted 1\n")
    return ["/usr/bin/iconv", "-l"], {"GCONV_PATH": str(shelf)}


def zones(shelf: Path) -> tuple[list[str], dict[str, str]]:
    zone = Path("/usr/share/zoneinfo/Etc/UTC")
    if not zone.exists():
        pytest.skip("no zones")
    (shelf / "Own").write_bytes(zone.read_bytes().replace(b"UTC", b"pla"))
    return ["/bin/date", "+%Znted"], {"TZDIR": str(shelf), "TZ": "Own"}


def zone_by_path(shelf: Path) -> tuple[list[str], dict[str, str]]:
    argv, environment = zones(shelf)
    return argv, {"TZ": f":{environment['TZDIR']}/Own"}


def terminals(shelf: Path) -> tuple[list[str], dict[str, str]]:
    source = "own|planted terminal, am,\n"
    subprocess.run(["tic", "-o", shelf, "-"], input=source, text=True, check=True)
    return ["/usr/bin/tput", "longname"], {"TERMINFO": str(shelf), "TERM": "own"}


def python_path(shelf: Path) -> tuple[list[str], dict[str, str]]:
    (shelf / "sitecustomize.py").write_text("print('planted')\n")
    return ["/usr/bin/python3", "-c", ""], {"PYTHONPATH": str(shelf)}


def python_user(shelf: Path) -> tuple[list[str], dict[str, str]]:
    """What Python finds below HOME."""
    code = "import site; print(site.getusersitepackages())"
    found = subprocess.run(
        ["/usr/bin/python3", "-c", code],
        env={"HOME": str(shelf)},
        capture_output=True,
        text=True,
        check=True,
    )
    place = Path(found.stdout.strip())
    place.mkdir(parents=True)
    (place / "usercustomize.py").write_text("print('planted')\n")
    return ["/usr/bin/python3", "-c", ""], {"HOME": str(shelf)}


def perl_options(shelf: Path) -> tuple[list[str], dict[str, str]]:
    (shelf / "Own.pm").write_text("print 'planted'; 1;\n")
    return ["/usr/bin/perl", "-e", "1"], {"PERL5LIB": str(shelf), "PERL5OPT": "-MOwn"}


def shell_start(shelf: Path) -> tuple[list[str], dict[str, str]]:
    (shelf / "rc").write_text("echo planted\n")
    return ["/bin/bash", "-c", ":"], {"BASH_ENV": f"{shelf}/rc"}


def shell_function(shelf: Path) -> tuple[list[str], dict[str, str]]:
    return ["/bin/bash", "-c", "uname"], {"BASH_FUNC_uname%%": "() { echo planted; }"}


def top_configuration(shelf: Path) -> tuple[list[str], dict[str, str]]:
    (shelf / "planted/.config/procps").mkdir(parents=True)
    (shelf / "planted/.config/procps/toprc").write_text("of no kind\n")
    return ["/usr/bin/top", "-b", "-n1"], {"HOME": f"{shelf}/planted", "TERM": "dumb"}


def top_configuration_of_old(shelf: Path) -> tuple[list[str], dict[str, str]]:
    (shelf / "planted").mkdir()
    (shelf / "planted/.toprc").write_text("of no kind\n")
    return ["/usr/bin/top", "-b", "-n1"], {"HOME": f"{shelf}/planted", "TERM": "dumb"}


def configuration_directory(shelf: Path) -> tuple[list[str], dict[str, str]]:
    (shelf / "planted/procps").mkdir(parents=True)
    (shelf / "planted/procps/toprc").write_text("of no kind\n")
    return ["/usr/bin/top", "-b", "-n1"], {"XDG_CONFIG_HOME": f"{shelf}/planted", "TERM": "dumb"}


def ps_format(shelf: Path) -> tuple[list[str], dict[str, str]]:
    return ["/usr/bin/ps"], {"PS_FORMAT": "pid=planted"}


def less_open(shelf: Path) -> tuple[list[str], dict[str, str]]:
    program = script(shelf / "open")
    return ["/usr/bin/less", "/etc/hostname"], {"LESSOPEN": f"|{program} %s"}


def git_configuration(shelf: Path) -> tuple[list[str], dict[str, str]]:
    (shelf / ".gitconfig").write_text("[alias]\n\town = !echo planted\n")
    return ["/usr/bin/git", "own"], {"HOME": str(shelf)}


def readline(shelf: Path) -> tuple[list[str], dict[str, str]]:
    (shelf / "inputrc").write_text('"\\C-g": "planted"\n')
    argv = ["/bin/bash", "--norc", "-ic", "bind -f ${INPUTRC:-/dev/null}; bind -s"]
    return argv, {"INPUTRC": f"{shelf}/inputrc"}


ATTACKS = [
    search_path, library_path, preloaded, audited, debugged, locales, conversions, zones,
    zone_by_path, terminals, python_path, python_user, perl_options, shell_start, shell_function,
    top_configuration, top_configuration_of_old, configuration_directory, ps_format, less_open,
    git_configuration, readline,
]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_the_environment_changes_nothing(
    observer: ObserverProcess, shelf: Path, attack: Attack
) -> None:
    argv, environment = attack(shelf)
    if not os.path.exists(argv[0]):
        pytest.skip(f"no {argv[0]}")
    for place in (shelf, *shelf.rglob("*")):  # whoever it is may read it
        place.chmod(place.stat().st_mode | (0o555 if place.is_dir() else 0o444))
        os.chown(place, observer.uid, -1)
    naive = observer.naive(*argv, environment=environment)
    assert "planted" in (naive.stdout + naive.stderr).lower(), naive
    seen = observer.run(*argv, claimed=environment)
    assert seen.error is None
    assert "planted" not in (seen.stdout + seen.stderr).lower()


def test_nothing_is_written_where_a_variable_says(observer: ObserverProcess, shelf: Path) -> None:
    """The loader writes its messages to a file; the view is read-only besides."""
    environment = {"LD_DEBUG": "libs", "LD_DEBUG_OUTPUT": f"{shelf}/debug"}
    observer.naive("/bin/true", environment=environment)
    assert [path.name.partition(".")[0] for path in shelf.iterdir()] == ["debug"]
    next(shelf.iterdir()).unlink()
    assert observer.run("/bin/true", claimed=environment).exit_code == 0
    assert list(shelf.iterdir()) == []


def test_no_pager_is_started_and_no_bus_is_named(observer: ObserverProcess, shelf: Path) -> None:
    """systemd's programs start SYSTEMD_PAGER on a terminal, and ask the bus that they are told."""
    names = ("SYSTEMD_PAGER", "PAGER", "MANPAGER", "DBUS_SYSTEM_BUS_ADDRESS", "SYSTEMD_LESS")
    environment = dict.fromkeys(names, f"unix:path={shelf}/bus")
    code = "import os, sys; print(*map(os.environ.get, sys.argv[1:]), sys.stdout.isatty())"
    naive = observer.naive("/usr/bin/python3", "-c", code, *names, environment=environment)
    assert naive.stdout.count("unix:path") == len(names)
    seen = observer.python(code, *names, claimed=environment)
    assert seen.stdout.split() == ["None"] * len(names) + ["False"]
