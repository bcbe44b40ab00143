"""Attacks on observed programs by what the script made: each works naively and fails here (P1).

Naively means: the same program with what the script made (its files laid over the host's tree,
its environment, directory, input, descriptors).
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.runner.conftest import Bench
from tests.support.accounts import is_root
from tests.support.observing import ObserverProcess, merged

pytestmark = pytest.mark.P1

needs_root = pytest.mark.skipif(not is_root(), reason="the naive way mounts an overlay")

PLANTED = [
    ({"/etc/ld.so.preload": "/planted.so"}, ["/bin/true"], {}, "/planted.so"),
    ({"/etc/passwd": "planted:x:0:0::/:/bin/sh\n"}, ["/usr/bin/getent", "passwd"], {}, "planted"),
    ({"/etc/nsswitch.conf": "hosts: files\n", "/etc/hosts": "192.0.2.1 planted\n"},
     ["/usr/bin/getent", "hosts", "planted"], {}, "192.0.2.1"),
    ({"/home/planted/.config/procps/toprc": "planted"}, ["/usr/bin/top", "-b", "-n1"],
     {"HOME": "/home/planted", "TERM": "dumb"}, "rcfile"),
    ({"/planted/gconv-modules": "module PLANTED// INTERNAL planted 1\n"},
     ["/usr/bin/iconv", "-l"], {"GCONV_PATH": "/planted"}, "PLANTED"),
    ({"/etc/topdefaultrc": "planted"}, ["/usr/bin/top", "-b", "-n1"], {"TERM": "dumb"}, "rcfile"),
    ({"/etc/fstab": "/dev/planted /planted ext4 defaults 0 0\n"},
     ["/usr/bin/findmnt", "--fstab", "-no", "SOURCE"], {}, "planted"),
    ({"/etc/iproute2/rt_tables": "255 planted\n254 main\n"}, ["/bin/ip", "rule"], {}, "planted"),
    ({"/etc/inputrc": '"\\C-g": "planted"\n'}, ["/bin/bash", "--norc", "-ic", "bind -s"],
     {"INPUTRC": "/etc/inputrc"}, "planted"),
    ({"/etc/os-release": "NAME=planted\n"}, ["/bin/sh", "-c", ". /etc/os-release; echo $NAME"], {},
     "planted"),
    ({"/usr/bin/ps": "#!/bin/sh\necho planted\n"}, ["/bin/sh", "/usr/bin/ps"], {}, "planted"),
    ({"/planted/sitecustomize.py": "print('planted')\n"}, ["/usr/bin/python3", "-c", ""],
     {"PYTHONPATH": "/planted"}, "planted"),
    ({"/planted/rc": "echo planted\n"}, ["/bin/bash", "-c", ":"], {"BASH_ENV": "/planted/rc"},
     "planted"),
    ({"/planted/lib.so": "planted"}, ["/bin/true"], {"LD_PRELOAD": "/planted/lib.so"}, "lib.so"),
    ({"/planted/libc.so.6": "planted"}, ["/bin/true"], {"LD_LIBRARY_PATH": "/planted"}, "planted"),
]  # fmt: skip


@needs_root
@pytest.mark.parametrize(("files", "argv", "environment", "proof"), PLANTED)
def test_planted_files_are_never_read(
    observer: ObserverProcess,
    files: dict[str, str],
    argv: list[str],
    environment: dict[str, str],
    proof: str,
) -> None:
    if not shutil.which(argv[0]):
        pytest.skip(f"no {argv[0]}")
    assert proof in merged(files, *argv, **environment)
    seen = observer.run(*argv, claimed=environment)
    assert seen.error is None
    assert proof not in seen.stdout + seen.stderr


def test_nothing_of_a_live_sandbox_is_seen(
    bench: Bench, observer: ObserverProcess, place: Path
) -> None:
    """While a script runs that has written, its writes are seen by it alone."""
    script = (
        f"echo planted | tee {place}/made /tmp/{place.name} /etc/ld.so.preload;"
        "echo ready; while :; do sleep 0.01; done"
    )
    _, job = bench.runner.start("shell", script)
    with job:
        printed = b""
        while b"ready" not in printed:
            event, payload, _ = job.receive()
            assert event["event"] in ("started", "output"), event
            printed += payload
        seen = observer.run("/bin/ls", "-d", f"{place}/made", f"/tmp/{place.name}", "/etc/passwd")
        assert (seen.exit_code, seen.stdout.strip()) == (2, "/etc/passwd")
        assert "preload" not in seen.stderr
        job.send({"op": "cancel"})
        while job.receive()[0]["event"] != "end":
            pass


NAMES = (
    "LD_PRELOAD LD_LIBRARY_PATH LD_AUDIT LD_DEBUG_OUTPUT PATH HOME XDG_CONFIG_HOME TMPDIR "
    "PYTHONPATH PYTHONSTARTUP PYTHONHOME PERL5LIB PERL5OPT RUBYLIB NODE_OPTIONS BASH_ENV ENV "
    "GCONV_PATH LOCPATH NLSPATH TZDIR TERMINFO TERMCAP PAGER LESSOPEN SYSTEMD_PAGER "
    "SYSTEMD_EDITOR GIT_CONFIG MALLOC_TRACE GLIBC_TUNABLES HOSTALIASES LOCALDOMAIN "
    "RES_OPTIONS DBUS_SESSION_BUS_ADDRESS DBUS_SYSTEM_BUS_ADDRESS SSH_AUTH_SOCK "
    "XDG_RUNTIME_DIR PROCPS_USERLEN OPENSSL_CONF SS_FILTER IFS LS_COLORS"
).split()
VALUES = {
    "TZ": ":/planted",
    "LANG": "/planted",
    "LC_ALL": "../planted",
    "LC_MESSAGES": "en\nplanted",
    "TERM": "../planted",
    "COLUMNS": "9planted",
    "LINES": "",
    "BLOCK_SIZE": "/planted",
}
CLAIMED = {**dict.fromkeys(NAMES, "/planted"), **VALUES}


def test_of_the_environment_only_harmless_words_are_taken(observer: ObserverProcess) -> None:
    assert observer.naive("/usr/bin/env", environment=CLAIMED).stdout.count("planted") > 40
    seen = observer.run("/usr/bin/env", claimed=CLAIMED)
    base = ["HOME=/nonexistent", "LANG=C.UTF-8", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
    assert sorted(seen.stdout.splitlines()) == [*base, "TMPDIR=/run/.temporary"]
    harmless = {"TZ": "Europe/Berlin", "LANG": "de_DE.UTF-8", "COLUMNS": "200", "TERM": "xterm"}
    printed = observer.run("/usr/bin/env", claimed=harmless).stdout
    assert set(printed.splitlines()) >= {f"{name}={value}" for name, value in harmless.items()}


def test_the_name_that_it_is_called_by_is_its_own(observer: ObserverProcess) -> None:
    code = "echo $0"
    assert observer.naive("planted", "-c", code, executable="/bin/sh").stdout == "planted\n"
    assert observer.run("planted", "-c", code, program="/bin/sh").stdout == "sh\n"
    assert observer.run("/bin/sh", "-c", code).stdout == "/bin/sh\n"


def test_the_scripts_directory_is_not_where_it_runs(observer: ObserverProcess, shelf: Path) -> None:
    (shelf / "planted.py").write_text("print('planted')")
    code = "import planted"
    assert observer.naive("/usr/bin/python3", "-c", code, cwd=shelf).stdout == "planted\n"
    assert "ModuleNotFoundError" in observer.run("/usr/bin/python3", "-c", code).stderr
    assert observer.run("/bin/pwd").stdout == "/\n"


def test_input_and_descriptors_are_not_the_scripts(observer: ObserverProcess, shelf: Path) -> None:
    code = "import os; print(sorted(os.listdir('/proc/self/fd'))); print(os.read(0, 9))"
    with open(shelf / "open", "w+") as file:
        naive = observer.naive(
            "/usr/bin/python3", "-c", code, stdin=subprocess.DEVNULL, pass_fds=[file.fileno()]
        )
        assert f"'{file.fileno()}'" in naive.stdout
        # The directory that is being listed is the fourth.
        assert observer.python(code).stdout == "['0', '1', '2', '3']\nb''\n"
    assert observer.naive("/bin/cat", stdin=None, input="planted").stdout == "planted"
    assert observer.run("/bin/cat").stdout == ""
