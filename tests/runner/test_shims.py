"""Shims stand in for programs of PATH, act as they are told, and leave no trace in a plan
(P1, P2, P7)."""

from __future__ import annotations

import base64
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.shimming import Shimmed, ending, output, running, shimmed, waiting

pytestmark = pytest.mark.P2

REAL = "/run/shannot/host"


@dataclass(frozen=True)
class Scene:
    """Runs scripts with shims under one builder, in a directory of the identity's."""

    builder: str
    code: Path
    state: Path
    home: Path
    account: str | None

    def run(self, script: str, answers: dict[str, Any] | None = None, **more: Any) -> Shimmed:
        """One script, started in `home`; see `shimmed`."""
        options = {"account": self.account, "cwd": str(self.home), **more}
        return shimmed(self.code, self.state, script, answers or {}, **options)

    def path(self, name: str) -> str:
        """That of `name` in `home`."""
        return str(self.home / name)


@pytest.fixture
def scene(builder: str, packages: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    name = None
    if os.geteuid() == 0 and builder == "one-uid":
        name = request.getfixturevalue("account")
    parent = Path(pwd.getpwnam(name).pw_dir) if name else Path.home()
    state = Path(tempfile.mkdtemp(prefix="shannot-test-", dir="/var/tmp"))
    home = Path(tempfile.mkdtemp(prefix="shannot-place-", dir=parent))
    if name:
        for path in (state, home):
            shutil.chown(path, name, name)
    try:
        yield Scene(builder, packages, state, home, name)
    finally:
        if (state / "shims").is_symlink():
            shutil.rmtree(os.readlink(state / "shims"))
        shutil.rmtree(state)
        shutil.rmtree(home)


def new_content(found: Shimmed, path: str) -> bytes:
    """The content that the plan has for `path`."""
    (step,) = (step for step in found.steps if step["path"] == path)
    return base64.b64decode(found.contents[step["after"]["sha256"]])


def test_a_call_says_what_was_called(scene: Scene) -> None:
    """Path, words, directory and environment are what the kernel gave the program."""
    found = scene.run(
        r"""cd /usr; env -i A=1 B= /bin/../bin/tac -x 'two words' "" "$(printf 'a\377\n.')" """,
        {"tac": [ending(7)]},
    )
    assert found.exit_code == 7, found
    (call,) = found.calls
    assert call["path"] == "/usr/bin/tac"
    words = ["/bin/../bin/tac", "-x", "two words", "", "a\udcff\n."]
    assert call["argv"] == words
    assert call["cwd"] == "/usr"
    assert call["environment"] == {"A": "1", "B": ""}
    assert call["standard"][0] == "/dev/null"
    assert len(call["standard"]) == 3
    assert found.steps == [] and found.error is None


def test_it_prints_and_ends_as_it_is_told(scene: Scene) -> None:
    answers = {
        "tac": [output("out "), output("err", "stderr"), output("put\n"), ending(3)],
        "nl": [ending(None, 15)],
        "comm": [ending(None, 9)],
        "shuf": [ending(None, 13)],
    }
    found = scene.run("tac; echo $?; nl; echo $?; comm; echo $?; shuf; echo $?", answers)
    assert found.stdout == "out put\n3\n143\n137\n141\n", found
    assert found.stderr.startswith("err")


def test_nobody_answers(scene: Scene) -> None:
    found = scene.run("tac; echo $?", {"tac": []})
    assert found.stdout == "126\n"
    assert found.stderr == ("shannot: tac: not run: nobody is there who could say what it may do\n")


def test_the_program_itself_runs_inside(scene: Scene) -> None:
    found = scene.run(
        "echo one > a; printf '2\\n1\\n' | tac; tac a; echo $?; tac nowhere",
        {"tac": [running(f"{REAL}/usr/bin/tac")]},
    )
    assert found.stdout == "1\n2\none\n0\n", found
    assert found.stderr.startswith("/usr/bin/tac: failed to open 'nowhere'")
    assert found.exit_code == 1
    assert found.changes() == {scene.path("a"): "create"}


def test_a_script_and_one_that_looks_beside_itself(scene: Scene) -> None:
    """`$0` and /proc/self/exe of a contained program lead to a place like its own."""
    found = scene.run(
        f"which sh; ldd /bin/true | wc -l; ls -d {REAL}/usr/bin/../lib; perl -e 'print readlink"
        f' "/proc/self/exe"\'; test -e {REAL}/usr/bin/../share/perl && echo " beside"',
        {
            "which": [running(f"{REAL}/usr/bin/which.debianutils")],
            "ldd": [running(f"{REAL}/usr/bin/ldd")],
            "perl": [running(f"{REAL}/usr/bin/perl")],
        },
    )
    which, lines, beside, exe = found.stdout.splitlines()
    assert which == "/usr/bin/sh", found
    assert int(lines) >= 2
    assert beside == f"{REAL}/usr/bin/../lib"
    assert exe == f"{REAL}/usr/bin/perl beside"


def test_signals_pipes_and_standard_descriptors(scene: Scene) -> None:
    """As of the program: it dies of a broken pipe and of a signal, also in the background."""
    flood = [output("y" * 60000) for _ in range(40)] + [ending(0)]
    script = """
tac | head -c 3; echo
nl & kill -TERM $!; wait $!; echo $?
tac >&- ; echo $?
tac 2>&- >/dev/null; echo $?
comm <&- >&- 2>&- ; echo $?
seq 12 | xargs -P 4 -n 1 shuf | sort -n | uniq -c | tr -s ' '
python3 - <<'END'
import subprocess
one = subprocess.Popen(["shuf"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
print(one.communicate(b"x"), one.returncode)
END
"""
    answers = {
        "tac": flood,
        "nl": [waiting()],
        "comm": [ending(5)],
        "shuf": [output("1\n"), ending(0)],
    }
    found = scene.run(script, answers)
    lines = found.stdout.splitlines()
    assert lines[0] == "yyy", found
    assert lines[1] == "143"
    assert lines[2:5] == ["0", "0", "5"]
    assert lines[5:] == [" 12 1", "(b'1\\n', None) 0"]
    last = next(call for call in found.calls if call["path"] == "/usr/bin/comm")
    assert last["standard"] == ["/dev/null"] * 3


def test_links_count_by_their_own_name(scene: Scene) -> None:
    """A link of the host's has its name; a script's own is the program; a copy runs inside."""
    answers = {name: [output(f"{name}\n"), ending(0)] for name in ("tset", "reset", "tac", "awk")}
    found = scene.run(
        "reset; tset; awk; ln -s /usr/bin/tac mine; ./mine; cp /usr/bin/tac copied;"
        " echo contained | ./copied; ls -l /usr/bin/reset | sed 's/.* -> //'",
        answers,
    )
    assert found.stdout == "reset\ntset\nawk\ntac\ncontained\ntset\n", found
    paths = [call["path"] for call in found.calls]
    assert paths == ["/usr/bin/reset", "/usr/bin/tset", "/usr/bin/awk", "/usr/bin/tac"]
    assert found.calls[-1]["argv"] == ["./mine"]


def test_a_copy_has_the_content_of_the_program(scene: Scene) -> None:
    host = Path("/usr/bin/tac")
    found = scene.run(
        "umask 022; cp /usr/bin/tac a; cp -p /usr/bin/tac b; cat a > c", shims=["tac"]
    )
    assert found.changes() == {scene.path(name): "create" for name in "abc"}, found
    for step in found.steps:
        assert new_content(found, step["path"]) == host.read_bytes()
        assert step["after"]["size"] == host.stat().st_size
    modes = [step["after"]["mode"] for step in found.steps]
    assert modes == [0o755, 0o755, 0o644]
    assert found.steps[1]["after"]["mtime_ns"] == host.stat().st_mtime_ns


def test_what_holds_parts_of_a_shim_fails(scene: Scene) -> None:
    for script in (
        "tar cf it /usr/bin/tac 2>/dev/null",
        "cat /usr/bin/tac > it; echo more >> it",
        "head -c 3000000 /dev/zero > it; cat /usr/bin/tac >> it",
        "cat /usr/bin/tac /usr/bin/nl > it",
    ):
        found = scene.run(script, shims=["tac", "nl"])
        assert found.error is not None, script
        assert (found.error["code"], found.error["path"]) == ("capture_failed", scene.path("it"))


def test_scratch_may_hold_them(scene: Scene) -> None:
    found = scene.run("tar cf /tmp/it /usr/bin/tac 2>/dev/null; echo $?", shims=["tac"])
    assert (found.stdout, found.error, found.steps) == ("0\n", None, [])


def test_what_only_looks_like_a_shim_is_the_script_s_own(scene: Scene) -> None:
    """Nobody gets the content of a program by writing what would be its shim."""
    text = (
        "#!/usr/bin/python3 -IS\n# shannot 00000000000000000000000000000000 0\nimport sys\n"
        "sys.path.insert(0, '/run/shannot/shim')\nimport shim_program\n"
        "shim_program.main(b'/usr/bin/tac')\n"
    )
    found = scene.run(f"cat > it <<'END'\n{text}END\n", shims=["tac"])
    assert new_content(found, scene.path("it")).decode() == text


def test_looking_changes_nothing(scene: Scene) -> None:
    found = scene.run(
        "ls -l /usr/bin > /dev/null; file=$(cat /usr/bin/tac /usr/bin/awk); test -x /usr/bin/tac;"
        ' python3 -c \'open("/usr/bin/tac", "r+b")\' 2>/dev/null',
        shims=["tac", "awk"],
    )
    assert (found.steps, found.error) == ([], None)


def test_names_are_those_of_programs_and_no_interpreter_is_replaced(scene: Scene) -> None:
    found = scene.run(
        "python3 -c 'print(1)'; python3 --version >/dev/null; head -c 2 /usr/bin/tac; echo;"
        " test -e /usr/bin/nothing-of-this-name || echo none",
        {"python3": [], "python3.11": [], "nothing-of-this-name": [], "tac": []},
    )
    assert found.stdout == "1\n#!\nnone\n", found


def test_programs_look_like_the_host_s(scene: Scene) -> None:
    """Modes and times are the host's; without privileges the owner's are those that we have."""
    found = scene.run("stat -c '%a %Y' /usr/bin/tac /usr/bin /usr/sbin /usr", shims=["tac"])
    for line, path in zip(
        found.stdout.splitlines(), ("/usr/bin/tac", "/usr/bin", "/usr/sbin", "/usr"), strict=True
    ):
        mode, seconds = line.split()
        status = os.stat(path)
        mask = 0o777 if scene.builder == "privileged" else 0o577
        assert int(mode, 8) & mask == stat.S_IMODE(status.st_mode) & mask, path
        if scene.builder == "privileged" or path == "/usr/bin/tac":
            assert int(seconds) == int(status.st_mtime), path


def test_what_is_hidden_is_hidden_there_too(scene: Scene) -> None:
    hidden = Path("/usr/bin/tac")
    found = scene.run(
        f"cat {REAL}{hidden} {hidden}; ls {REAL}/usr/local/bin; cat {REAL}/etc/hostname",
        shims=["tac", "nl"],
        hide=[str(hidden), "/usr/local/bin", "/etc/hostname"],
    )
    assert found.stdout == "", found


privileged = pytest.mark.skipif(os.geteuid() != 0, reason="changes programs")


@privileged
def test_changes_of_programs_are_those_of_the_host_s(scene: Scene) -> None:
    if scene.builder != "privileged":
        found = scene.run("rm -f /usr/bin/tac; echo > /usr/bin/tac; : > /usr/bin/n", shims=["tac"])
        assert (found.steps, found.error) == ([], None)
        return
    found = scene.run(
        "chmod 700 /usr/bin/tac; rm /usr/bin/nl /usr/bin/awk; mv /usr/bin/comm /usr/bin/comm.old;"
        " : > /usr/bin/shuf; chmod 711 /usr/bin/reset; chown 1 /usr/bin/tsort; chown 0 /usr/bin/od",
        shims=["tac", "nl", "awk", "comm", "shuf", "tset", "tsort", "od"],
    )
    assert found.error is None, found
    assert found.changes() == {
        "/usr/bin/tac": "metadata",
        "/usr/bin/tset": "metadata",
        "/usr/bin/nl": "delete",
        "/usr/bin/awk": "delete",
        "/usr/bin/comm.old": "rename",
        "/usr/bin/shuf": "modify",
        "/usr/bin/tsort": "metadata",
    }
    steps = {step["path"]: (step["before"], step["after"]) for step in found.steps}
    before, after = steps["/usr/bin/tac"]
    assert (before["mode"], after["mode"]) == (0o755, 0o700)
    assert before["sha256"] == after["sha256"]
    before, after = steps["/usr/bin/tsort"]
    assert (before["uid"], after["uid"], before["mode"]) == (0, 1, after["mode"])
    before, after = steps["/usr/bin/shuf"]
    assert (before["size"], after["size"]) == (os.stat("/usr/bin/shuf").st_size, 0)
    assert steps["/usr/bin/awk"][0]["type"] == "symlink"


@privileged
def test_a_link_changed_as_a_program_fails(scene: Scene) -> None:
    if scene.builder != "privileged":
        pytest.skip("the identity may not")
    found = scene.run("chmod 700 /usr/bin/awk", shims=["awk"])
    assert found.error is not None
    assert (found.error["code"], found.error["path"]) == ("capture_failed", "/usr/bin/awk")
