"""Attacks that would cost the host its memory, processes or time (P10)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.runner.conftest import Bench

pytestmark = pytest.mark.P10

# Starts threads without a stack of their own by clone(2) until that fails.
THREADS = """
import ctypes, mmap, os
code = mmap.mmap(-1, 4096, prot=7)
# mov eax, 56; syscall; test eax, eax; jz child; ret; child: mov eax, 34 (pause); syscall; jmp child
code.write(bytes.fromhex("b8380000000f0585c07401c3b8220000000f05ebf7"))
stack = mmap.mmap(-1, 65536)
top = ctypes.addressof(ctypes.c_char.from_buffer(stack)) + 32768
place = ctypes.addressof(ctypes.c_char.from_buffer(code))
kind = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_ulong, *[ctypes.c_void_p] * 3)
threads = 0
while threads < 5000 and kind(place)(0x50F00, top, None, None) > 0:
    threads += 1
os.write(1, b"%d" % threads)
os._exit(0)
"""


@pytest.mark.skipif(
    os.uname().machine != "x86_64" or not Path("/proc/self/ns/time").exists(),
    reason="machine code of x86_64",
)
def test_threads_are_limited_for_uid_0_too(bench: Bench) -> None:
    if tuple(int(part) for part in os.uname().release.split(".")[:2]) < (6, 14):
        pytest.skip("the kernel has no pid_max of a pid namespace")
    before = Path("/proc/sys/kernel/pid_max").read_text()
    outcome = bench.run("python", THREADS)
    # The supervisor counts threads and is usually first; pid_max holds however late it is.
    assert outcome.stopped == "processes" or 0 < int(outcome.stdout) < 4200, outcome
    assert Path("/proc/sys/kernel/pid_max").read_text() == before


def test_empty_files_cannot_fill_the_kernels_memory(bench: Bench, place: Path) -> None:
    """A tmpfs without nr_inodes allows as many as fill half of the memory."""
    script = "import os\nfor p in ('.', '/dev', '/dev/shm'): print(os.statvfs(p).f_files)"
    outcome = bench.run("python", script, cwd=str(place), limits={"steps": 1000})
    assert [int(word) <= 60_000 for word in outcome.stdout.split()] == [True] * 3, outcome


@pytest.mark.parametrize(
    "script",
    [
        "for i in range(30): open(f'{i}', 'w').truncate(32 << 20)",
        "open('f', 'w').truncate(32 << 20)\nfor i in range(30): os.link('f', f'{i}')",
    ],
    ids=["holes", "links"],
)
def test_what_costs_nothing_to_write_costs_little_to_read(
    bench: Bench, place: Path, script: str
) -> None:
    outcome = bench.run(
        "python", f"import os\n{script}", cwd=str(place), limits={"written_bytes": 32 << 20}
    )
    assert outcome.error is not None
    assert outcome.error["code"] == "limit_exceeded"
    assert outcome.error["details"]["name"] == "written_bytes"


def test_attributes_cannot_make_a_plan_too_large_to_send(bench: Bench, place: Path) -> None:
    script = (
        "import os\n"
        "for i in range(2400):\n"
        "    with open(str(i), 'w') as file: os.setxattr(file.fileno(), 'user.a', b'x' * 60000)\n"
    )
    outcome = bench.run("python", script, cwd=str(place))
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.error is not None
    assert outcome.error["code"] == "limit_exceeded"
    assert outcome.error["details"]["name"] == "plan_bytes"


def test_a_chain_of_directories_is_refused_before_its_paths_fill_memory(
    bench: Bench, place: Path
) -> None:
    script = (
        "import os\nfor _ in range(4000): os.mkdir('d' * 40); os.chdir('d' * 40)\nos._exit(0)\n"
    )
    outcome = bench.run("python", script, cwd=str(place))
    assert outcome.error is not None
    assert outcome.error["code"] == "limit_exceeded"
    assert outcome.error["details"]["name"] == "plan_bytes"


@pytest.mark.parametrize(
    ("kind", "arguments", "environment"),
    [
        ("command", ["/bin/echo", "a\0b"], {}),
        ("shell", ["a\0b"], {}),
        ("command", ["/bin/echo", "\ud800"], {}),
        ("command", [], {}),
        ("python", [], {"A": "b\0c"}),
        ("python", [], {"A=B": "c"}),
        ("python", [], {"\ud800": "c"}),
    ],
)
def test_words_that_no_program_can_be_given_are_a_typed_error(
    bench: Bench, kind: str, arguments: list[str], environment: dict[str, str]
) -> None:
    outcome = bench.run(kind, b"", *arguments, environment=environment)
    assert outcome.error is not None, outcome
    assert outcome.error["code"] == "invalid_request"
    assert outcome.stdout == outcome.stderr == b""
