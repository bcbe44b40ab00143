"""What is taken for the end of a script: nothing of the sandbox can change after it (P2, P8)."""

from __future__ import annotations

import os
import platform
import struct
from pathlib import Path

import pytest

from shannotd.runner.ending import has_succeeded
from tests.runner.conftest import Bench
from tests.support.runner import Outcome

pytestmark = pytest.mark.P2

EXITING, ORPHAN = 0x400004, 0x400040
OWNER_DIED = 0x40000000  # linux/futex.h
SET_ROBUST_LIST = {"x86_64": 273, "aarch64": 99}[platform.machine()]


def put(
    place: Path,
    name: int,
    *,
    flags: int = EXITING,
    threads: int = 1,
    size: int = 0,
    status: int = 0,
) -> None:
    """A process as proc_pid_stat(5) shows it."""
    fields = ["0"] * 50
    fields[0], fields[6], fields[17] = "R", str(flags), str(threads)
    fields[20], fields[49] = str(size), str(status)
    (place / str(name)).mkdir()
    (place / f"{name}/stat").write_text(f"{name} (a ) R 0 (b) {' '.join(fields)}\n")
    (place / f"{name}/cwd").symlink_to("/")


def ended(place: Path, script: int = 2) -> bool:
    """What is said of the processes in `place`."""
    processes = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return has_succeeded(processes, script)
    finally:
        os.close(processes)


def test_a_script_that_waits_to_be_taken_apart_has_ended(tmp_path: Path) -> None:
    put(tmp_path, 1, flags=ORPHAN, size=1 << 20)  # the init
    put(tmp_path, 2)
    (tmp_path / "self").mkdir()
    assert ended(tmp_path)
    put(tmp_path, 7, status=256)  # another that ended, however it did
    assert ended(tmp_path)


@pytest.mark.parametrize(
    "script",
    [{"flags": ORPHAN}, {"threads": 2}, {"size": 4096}, {"status": 256}, {"status": 9}],
    ids=["runs", "thread", "memory", "failed", "killed"],
)
def test_any_doubt_is_no_end(tmp_path: Path, script: dict[str, int]) -> None:
    put(tmp_path, 1)
    put(tmp_path, 2, **script)
    assert not ended(tmp_path)


@pytest.mark.parametrize("other", [{"flags": ORPHAN}, {"threads": 2}, {"size": 4096}])
def test_another_process_that_may_go_on_is_no_end(tmp_path: Path, other: dict[str, int]) -> None:
    put(tmp_path, 2)
    put(tmp_path, 3, **other)
    assert not ended(tmp_path)


def test_a_status_that_we_may_not_know_is_no_success(tmp_path: Path) -> None:
    put(tmp_path, 2)
    (tmp_path / "2/cwd").unlink()
    assert ended(tmp_path)  # it has none any more
    (tmp_path / "2/cwd").touch()  # no link can be read there
    assert not ended(tmp_path)


def test_what_is_gone_or_none_is_no_end(tmp_path: Path) -> None:
    put(tmp_path, 1)
    assert not ended(tmp_path)
    (tmp_path / "2").mkdir()
    assert not ended(tmp_path)
    (tmp_path / "2/stat").write_text("2 (a) R 0\n")
    assert not ended(tmp_path)


# Owns a robust futex in a mapped file when it ends.
ROBUST = (
    "import ctypes, mmap, struct, threading\n"
    "with open('file', 'wb+') as file:\n"
    "    file.write(bytes(4096))\n"
    "    file.flush()\n"
    "    memory = mmap.mmap(file.fileno(), 4096)\n"
    "word = ctypes.c_uint32.from_buffer(memory)\n"
    "word.value = threading.get_native_id()\n"
    "entry = (ctypes.c_long * 1)()\n"
    "head = (ctypes.c_long * 3)()\n"
    "entry[0] = ctypes.addressof(head)\n"
    "head[0] = ctypes.addressof(entry)\n"
    "head[1] = ctypes.addressof(word) - ctypes.addressof(entry)\n"
    "call = ctypes.CDLL(None, use_errno=True).syscall\n"
    f"assert call(ctypes.c_long({SET_ROBUST_LIST}), head, ctypes.c_size_t(24)) == 0\n"
    "import os; os._exit(0)\n"
)


def only_content(outcome: Outcome) -> bytes:
    """The content of the one file that a run made."""
    assert outcome.exit_code == 0, outcome.stderr
    (content,) = outcome.blobs.values()
    return content


def test_what_the_kernel_writes_for_an_ending_script_is_in_the_plan(
    bench: Bench, place: Path
) -> None:
    """A robust futex is marked when its owner has given up its filter already."""
    for _ in range(20):
        content = only_content(bench.run("python", ROBUST, cwd=str(place)))
        assert content == struct.pack("=I", OWNER_DIED) + bytes(4092)


def test_the_last_output_of_a_script_is_all_there(bench: Bench) -> None:
    code = "import os\nfor fd in (1, 2): os.write(fd, bytes([64 + fd]) * 60_000)\nos._exit(0)\n"
    for _ in range(10):
        outcome = bench.run("python", code)
        assert (outcome.stdout, outcome.stderr) == (b"A" * 60_000, b"B" * 60_000)


@pytest.mark.P8
def test_what_never_began_has_not_succeeded(bench: Bench) -> None:
    """Who reads the status a moment too early is told 0 of a process that is not dumpable."""
    for _ in range(10):
        outcome = bench.run("python", b"", environment={"A=B": "c"})
        assert outcome.error is not None, outcome
        assert outcome.error["code"] == "invalid_request"
