"""What changes of rights are shown as: special bits, capabilities, access lists, labels."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from shannotd.policy import acl
from shannotd.policy.rights import rights_findings
from shannotd.wire.decision import Risk
from shannotd.wire.step import FileState

ABSENT = FileState("absent")
FILE = FileState("file", mode=0o644, uid=0, gid=0, size=1, sha256="a" * 64)
OTHER = replace(FILE, sha256="b" * 64)
CAPABLE = {"security.capability": "0100000200040000000000000000000000000000"}


def found(
    before: FileState, after: FileState, *, sensitive: bool = False
) -> list[tuple[Risk, str]]:
    return list(rights_findings(before, after, sensitive=sensitive))


def acl_of(place: Path, *words: str, name: str = "system.posix_acl_access") -> str:
    """The list that setfacl(1) makes of `words`, in hex."""
    place = place / ("d" if "default" in name else "f")
    place.mkdir() if "default" in name else place.touch()
    os.chmod(place, 0o755 if "default" in name else 0o644)
    done = subprocess.run(["setfacl", *words, place], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no access lists here: {done.stderr!r}")
    return os.getxattr(place, name).hex()


def test_lists_are_read_as_they_are_written(tmp_path: Path) -> None:
    value = acl_of(tmp_path, "-m", "u:1001:rwx,u:1002:r,g:1003:w,m:rw")
    # The mask takes away what it lacks.
    assert acl.grants(value) == {"user 1001": 6, "user 1002": 4, "group 1003": 2}
    assert acl.grants(None) == {}
    for wrong in ("", "02", "03000000", value[:-2], "xx"):
        with pytest.raises(ValueError):
            acl.grants(wrong)


def with_list(value: str, name: str = "system.posix_acl_access") -> FileState:
    return replace(FILE, xattrs={name: value})


def test_a_list_that_opens_a_file(tmp_path: Path) -> None:
    writes = with_list(acl_of(tmp_path, "-m", "u:1001:rw,g:1002:r"))
    words = [
        "an access list (ACL) lets user 1001 write to it",
        "an access list (ACL) lets group 1002 read or run it",
    ]
    assert found(FILE, writes) == [(Risk.DANGER, words[0]), (Risk.CAUTION, words[1])]
    # A new file has it of its directory maybe, and holds nothing that was there before.
    assert found(ABSENT, writes) == [(Risk.CAUTION, words[0]), (Risk.CAUTION, words[1])]
    assert found(ABSENT, writes, sensitive=True)[0] == (Risk.DANGER, words[0])
    assert found(writes, writes) == []


def test_lists_that_open_nothing(tmp_path: Path) -> None:
    wide = with_list(acl_of(tmp_path, "-m", "u:1001:rwx"))
    narrow = with_list(acl_of(tmp_path, "-m", "u:1001:r,m:r"))
    said = [(Risk.CAUTION, "an access list (ACL) says who else may use it")]
    assert found(wide, narrow) == said
    assert found(wide, FILE) == said
    assert found(narrow, wide)[0][0] is Risk.DANGER
    unknown = with_list("ff")
    assert [risk for risk, _ in found(FILE, unknown)] == [Risk.UNKNOWN]


def test_a_default_list(tmp_path: Path) -> None:
    name = "system.posix_acl_default"
    value = acl_of(tmp_path, "-d", "-m", "g:1002:rwx", name=name)
    directory = FileState("directory", mode=0o755, uid=0, gid=0)
    assert found(directory, replace(directory, xattrs={name: value})) == [
        (
            Risk.DANGER,
            "an access list (ACL) lets group 1002 write to what is made in it from then on",
        )
    ]


@pytest.mark.parametrize(("bit", "name"), [(0o4000, "setuid"), (0o2000, "setgid")])
def test_special_bits(bit: int, name: str) -> None:
    special = replace(FILE, mode=0o755 | bit)
    plain = replace(FILE, mode=0o755)
    for before, after, words in (
        (plain, special, f"{name}: whoever starts it acts"),
        (ABSENT, special, f"{name}: whoever starts it acts"),
        (special, plain, f"is {name} no longer"),
        (special, replace(special, sha256="b" * 64), f"another program that is {name}"),
    ):
        ((risk, reason),) = found(before, after)
        assert risk is Risk.DANGER
        assert reason.startswith(words)
    assert found(special, special) == []
    assert found(special, ABSENT) == []


def test_capabilities() -> None:
    capable = replace(FILE, xattrs=CAPABLE)
    got = "file capabilities: whoever starts it gets rights of root"
    assert found(FILE, capable) == [(Risk.DANGER, got)]
    assert found(capable, replace(OTHER, xattrs=CAPABLE)) == [(Risk.DANGER, got)]
    lost = "loses its file capabilities: whoever starts it lacks rights of root"
    assert found(capable, FILE) == [(Risk.DANGER, lost)]
    assert found(capable, capable) == []
    assert found(capable, FileState("symlink", target="x")) == []


def test_labels() -> None:
    def labelled(text: str) -> FileState:
        return replace(FILE, xattrs={"security.selinux": text.encode().hex()})

    old, new = labelled("system_u:object_r:etc_t:s0\0"), labelled("x:\x1b[2J\0")
    words = "another SELinux label, by which services are kept apart: "
    assert found(old, FILE) == [(Risk.DANGER, words + "system_u:object_r:etc_t:s0 to none")]
    ((risk, reason),) = found(old, new)
    assert risk is Risk.DANGER
    assert "\x1b" not in reason
    # What is new has some label: it is no change.
    assert found(ABSENT, old) == []
