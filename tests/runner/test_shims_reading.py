"""A program whose calls are recorded is itself to whoever reads, copies or lists it (P1, P2, P7).

Nothing of a shim is in a plan, whatever a script makes of its programs.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import tarfile
import zlib
from pathlib import Path
from typing import Any

import pytest

from tests.runner.conftest import Bench
from tests.support.accounts import is_root
from tests.support.runner import Outcome, review

pytestmark = pytest.mark.P2

PROGRAM = Path("/usr/bin/df")
SHIMS = ("df", "tac", "nl", "comm", "shuf", "tsort", "od", "awk", "perl")


def run(bench: Bench, kind: str, script: str, cwd: Path | str = "/", **more: Any) -> Outcome:
    """A script; each call of a program that has a shim is one to be reviewed."""
    outcome = bench.run(kind, script, cwd=str(cwd), shims=SHIMS, decide=lambda _: review(), **more)
    assert outcome.error is None and outcome.stopped is None, outcome
    assert outcome.exit_code == 0, outcome
    return outcome


def content(outcome: Outcome, path: Path) -> bytes:
    """What the plan has for the new file `path`."""
    (step,) = (step for step in outcome.steps if step.get("path") == str(path))
    assert step["change"] == "create"
    return outcome.blobs[step["after"]["sha256"]]


@pytest.mark.parametrize(
    ("kind", "script"),
    [
        ("shell", "cp /usr/bin/df it"),
        ("shell", "cp --reflink=auto --sparse=always /usr/bin/df it"),
        ("shell", "cat /usr/bin/df > it"),
        ("shell", "cat < /bin/df | cat | tee it > /dev/null"),
        ("shell", "dd if=/usr/bin/df of=it bs=4k 2>/dev/null"),
        ("shell", "install -m 644 /usr/bin/df it"),
        ("shell", "tail -c +1 /usr/bin/df > it"),
        ("shell", "mkdir x; cd x; tar cf - -C /usr/bin df | tar xf - ; mv df ../it; rmdir ../x"),
        ("python", "import shutil; shutil.copy('/usr/bin/df', 'it')"),
        ("python", "open('it', 'wb').write(open('/usr/bin/df', 'rb').read())"),
        (
            "python",
            "import mmap\n"
            "with open('/usr/bin/df', 'rb') as file:\n"
            "    open('it', 'wb').write(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))\n",
        ),
        (
            "python",
            "import os\nsource = os.open('/usr/bin/df', os.O_RDONLY)\n"
            "target = os.open('it', os.O_WRONLY | os.O_CREAT)\n"
            "os.sendfile(target, source, 0, os.fstat(source).st_size)\n",
        ),
    ],
)
def test_a_copy_is_the_program(bench: Bench, place: Path, kind: str, script: str) -> None:
    outcome = run(bench, kind, script, place)
    assert outcome.commands() == []
    assert content(outcome, place / "it") == PROGRAM.read_bytes()


@pytest.mark.parametrize(
    ("script", "unpack"),
    [
        ("gzip < /usr/bin/df > it", gzip.decompress),
        ("gzip -c /usr/bin/df > it", gzip.decompress),
        ("cat /usr/bin/df | gzip > it", gzip.decompress),
        ("tar czf it -C / usr/bin/df", lambda data: member(data, "usr/bin/df")),
        ("tar cjf it -C / bin/df", lambda data: member(data, "bin/df")),
        ("python3 -c 'import zlib; open(\"it\", \"wb\").write(zlib.compress("
        "open(\"/usr/bin/df\", \"rb\").read()))'", zlib.decompress),
        ("head -c 3000000 /dev/zero > it; cat /usr/bin/df >> it", lambda data: data[3_000_000:]),
        ("xxd -p /usr/bin/df > it", lambda data: bytes.fromhex(data.decode())),
    ],
)  # fmt: skip
def test_what_holds_a_program_holds_the_program(
    bench: Bench, place: Path, script: str, unpack: Any
) -> None:
    """However it is packed: nobody can search it for what does not belong there."""
    outcome = run(bench, "shell", script, place)
    assert unpack(content(outcome, place / "it")) == PROGRAM.read_bytes()


def member(data: bytes, name: str) -> bytes:
    """The content of a file in an archive."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        file = archive.extractfile(name)
        assert file is not None
        return file.read()


def test_who_looks_at_programs_sees_them(bench: Bench, place: Path) -> None:
    looks = (
        "sha256sum /usr/bin/df /bin/tac",
        "stat -c '%n %s %a %Y %h %F' /usr/bin/df /usr/bin/awk /usr/sbin/tsort /bin /bin/perl",
        "stat -c '%n %a %Y %F' /usr/bin /usr/sbin",
        "ls -log /usr/bin | grep '^[-l]' | sha256sum",
        "readlink -f /usr/bin/awk; readlink /usr/bin/awk",
        "find /usr/bin /usr/sbin -type f -size -8k | sort",
        "cmp /usr/bin/df /bin/df; command -v df; which df; type df",
        "head -c 4 /usr/bin/df | base64; file /usr/bin/df 2>/dev/null; ldd /usr/bin/df | wc -l",
    )
    script = "; ".join(looks)
    host = subprocess.run(
        ["/bin/sh", "-c", script],
        capture_output=True,
        check=False,
        env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    outcome = run(bench, "shell", script, place)
    assert outcome.stdout == host.stdout
    assert outcome.steps == []


def test_packages_are_unchanged(bench: Bench) -> None:
    """dpkg compares every file with its hash."""
    outcome = run(bench, "shell", "dpkg --verify coreutils sed bsdutils; echo $?")
    host = subprocess.run(
        ["dpkg", "--verify", "coreutils", "sed", "bsdutils"], capture_output=True, check=False
    )
    assert outcome.stdout == host.stdout + b"%d\n" % host.returncode


def test_a_program_looks_beside_itself(bench: Bench, place: Path) -> None:
    """One that is contained is started as it stands: `/proc/self/exe`, and what lies beside it."""
    contained = {"decision": "contain", "rule": "", "reason": "", "risk": "safe"}
    outcome = bench.run(
        "shell",
        'perl -e \'print readlink("/proc/self/exe"), " $^X\\n"\'; tac < /dev/null; echo $?',
        shims=SHIMS,
        decide=lambda _: {**contained, "observation": None, "recording": None},
    )
    assert outcome.stdout == b"/usr/bin/perl /usr/bin/perl\n0\n", outcome


@pytest.mark.skipif(not is_root(), reason="changes programs")
def test_changes_of_programs_are_the_script_s_changes(bench: Bench) -> None:
    if bench.builder != "privileged":
        outcome = bench.run("shell", "rm -f /usr/bin/tac; echo > /usr/bin/tac", shims=SHIMS)
        assert (outcome.steps, outcome.error) == ([], None)
        return
    outcome = run(
        bench,
        "shell",
        "chmod 700 /usr/bin/tac; rm /usr/bin/nl /usr/bin/awk; mv /usr/bin/comm /usr/bin/comm.old;"
        " : > /usr/bin/shuf; chown 1 /usr/bin/tsort; chown 0 /usr/bin/od; echo >> /usr/bin/df;"
        " ln /usr/bin/perl /usr/bin/perl.one",
    )
    perl = {Path("/usr/bin", name) for name in os.listdir("/usr/bin")}
    links = {str(path) for path in perl if os.path.samefile(path, "/usr/bin/perl")}
    assert {path: change for path, change in outcome.changes().items() if path not in links} == {
        "/usr/bin/tac": "metadata",
        "/usr/bin/nl": "delete",
        "/usr/bin/awk": "delete",
        "/usr/bin/comm.old": "rename",
        "/usr/bin/shuf": "modify",
        "/usr/bin/tsort": "metadata",
        "/usr/bin/df": "append",
        "/usr/bin/perl.one": "create",
    }
    steps = {step["path"]: (step["before"], step["after"]) for step in outcome.steps}
    before, after = steps["/usr/bin/tac"]
    assert (before["mode"], after["mode"]) == (0o755, 0o700)
    assert before["sha256"] == after["sha256"] == hashlib.sha256(
        Path("/usr/bin/tac").read_bytes()
    ).hexdigest()  # fmt: skip
    assert steps["/usr/bin/awk"][0]["type"] == "symlink"
