"""What runs a program, and what that loads: as the kernel and the loader find it (P2)."""

from __future__ import annotations

import os
import random
import struct
import subprocess
from pathlib import Path

import pytest

from shannotd.runner import elf, libraries
from shannotd.runner.elf import Linked
from shannotd.runner.interpreters import interpreters, on_host, shebang
from shannotd.runner.libraries import loaded

pytestmark = pytest.mark.P2


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (b"#!/bin/sh\necho", ["/bin/sh"]),
        (b"#! \t/bin/sh -eu x \r\n", ["/bin/sh", "-eu x"]),
        (b"#!/bin/sh", ["/bin/sh"]),
        (b"#!", None),
        (b"#!  \n", None),
        (b"# /bin/sh\n", None),
        (b"\x7fELF", None),
        (b"", None),
        (b"#!/" + b"x" * 300, ["/" + "x" * 253]),
        (b"#!/a\xff\n", ["/a\udcff"]),
    ],
)
def test_first_lines(source: bytes, words: list[str] | None) -> None:
    assert shebang(source) == words


def test_interpreters_of_interpreters(tmp_path: Path) -> None:
    """Outermost first, where links lead; what `env` starts among them."""
    shell = os.path.realpath("/bin/sh")
    env = os.path.realpath("/usr/bin/env")
    (tmp_path / "bin").mkdir()
    (tmp_path / "link").symlink_to("bin/three")
    scripts = {
        "one": "#!bin/two -x\n",
        "bin/two": f"#!{tmp_path}/link\n",
        "bin/three": "#!/bin/sh\n",
        "four": "#!/usr/bin/env three\n",
        "five": "#!/usr/bin/env -S A=1 -i three -x\n",
        "six": "#!/usr/bin/env --split-string=three\n",
        "seven": "#!/usr/bin/env -Sthree\n",
        "eight": "#!/usr/bin/env nothing-of-this-name\n",
        "nine": "#!/nowhere\n",
        "loop": "#!loop\n",
    }
    for name, text in scripts.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def of(name: str) -> list[str]:
        search = f"/nowhere:{tmp_path}/bin:/usr/bin"
        return interpreters(on_host, str(tmp_path / name), str(tmp_path), search)

    three = str(tmp_path / "bin/three")
    assert of("one") == [str(tmp_path / "bin/two"), three, shell]
    for name in ("four", "five", "six", "seven"):
        assert of(name) == [env, three, shell], name
    assert of("eight") == [env]
    assert of("nine") == ["/nowhere"]
    assert set(of("loop")) == {str(tmp_path / "loop")}
    assert len(of("loop")) <= 10
    assert interpreters(on_host, "/bin/sh", "/", "") == []
    assert interpreters(on_host, "/nowhere", "/", "") == []
    assert interpreters(on_host, "/", "/", "") == []


def ldd(program: str) -> set[str]:
    """The real paths of what the loader itself says that it loads."""
    lines = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    words = [word for line in lines.splitlines() for word in line.split()]
    return {os.path.realpath(word) for word in words if word.startswith("/")}


@pytest.mark.parametrize("program", ["/bin/sh", "/usr/bin/python3", "/usr/bin/env"])
def test_what_a_program_loads_is_what_the_loader_says(program: str) -> None:
    found = {os.path.realpath(path) for path in loaded(program) if path.startswith("/")}
    assert found >= ldd(program)
    assert "libc.so.6" in {os.path.basename(path) for path in loaded(program)}
    assert list(loaded(program)) == sorted(set(loaded(program)))


def test_what_is_no_program_of_machine_code_loads_nothing(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("#!/bin/sh\n")
    for path in (tmp_path / "text", tmp_path / "none", tmp_path):
        assert loaded(str(path)) == ()


def test_a_library_in_no_cache_is_known_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "CACHE", "/nowhere")
    assert "libc.so.6" in loaded("/bin/sh")


@pytest.mark.P10
def test_whatever_a_file_says_is_read_within_bounds(tmp_path: Path) -> None:
    data = Path("/bin/sh").resolve().read_bytes()[:100_000]
    choices = random.Random(7)
    path = tmp_path / "file"
    for _ in range(300):
        broken = bytearray(data[: choices.choice([0, 20, 64, 200, 4000, len(data)])])
        for _ in range(choices.randrange(12)):
            if broken:
                position = choices.randrange(min(len(broken), 1200))
                broken[position] = choices.randrange(256)
        path.write_bytes(broken)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            found = elf.linked(descriptor)
        except OSError:
            found = None
        finally:
            os.close(descriptor)
        assert found is None or isinstance(found, Linked)


def test_a_header_with_impossible_numbers_says_nothing(tmp_path: Path) -> None:
    header = bytearray(Path("/bin/sh").resolve().read_bytes()[:64])
    struct.pack_into("<Q", header, 32, (1 << 64) - 1)
    (tmp_path / "file").write_bytes(header)
    with open(tmp_path / "file", "rb") as file:
        assert elf.linked(file.fileno()) == Linked(None, ())
