"""Where a path leads in a sandbox, as its own processes see it (P2)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shannotd.runner.view import View, place


@pytest.fixture
def host() -> Iterator[View]:
    """The host's own tree, which is as good as a sandbox's."""
    processes = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    view = View(processes)
    yield view
    view.close()
    os.close(processes)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[int]:
    """Another process, in a directory of its own, with a file open as its standard input."""
    (tmp_path / "file").write_text("x")
    with open(tmp_path / "file") as stdin:
        child = subprocess.Popen(["/bin/sleep", "100"], cwd=tmp_path, stdin=stdin)
        while Path(f"/proc/{child.pid}/exe").readlink() != Path("/bin/sleep").resolve():
            os.sched_yield()
    yield child.pid
    child.kill()
    child.wait()


def leads(view: View, pid: int, path: str) -> str | None:
    """Where a path leads, None for nowhere."""
    try:
        found = view.open(pid, path)
    except OSError:
        return None
    try:
        return place(found)
    finally:
        os.close(found)


def test_links_start_at_the_root_and_end_somewhere(host: View, other: int, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/usr/../bin/sh")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "gone").symlink_to("none")
    shell = os.path.realpath("/bin/sh")
    assert leads(host, other, f"{tmp_path}/link") == shell
    assert leads(host, other, "/../../bin/../bin//sh") == shell
    for path in ("loop", "gone", "none", "file/x"):
        assert leads(host, other, f"{tmp_path}/{path}") is None, path
    for path in ("", "relative", "x" * 5000, "/x\0y"):
        assert leads(host, other, path) in (None, "/"), path


def test_links_of_proc_are_those_of_the_process(host: View, other: int, tmp_path: Path) -> None:
    """Whoever looks has another /proc/self."""
    sleep = os.path.realpath("/bin/sleep")
    for process in ("self", "thread-self", str(other)):
        base = f"/proc/{process}"
        assert leads(host, other, f"{base}/exe") == sleep
        assert leads(host, other, f"{base}/fd/0") == f"{tmp_path}/file"
        assert leads(host, other, f"{base}/cwd/file") == f"{tmp_path}/file"
        assert leads(host, other, f"{base}/root/bin/sleep") == sleep
        assert leads(host, other, f"{base}/root") == "/"
    assert leads(host, other, "/dev/fd/0") == f"{tmp_path}/file"
    assert leads(host, other, "/dev/fd/77") is None
    assert leads(host, other, "/dev/exe") is None
    assert leads(host, other, f"/proc/{other}/status") == f"/proc/{other}/status"


def test_of_nobody_nothing_is_seen(host: View) -> None:
    ended = subprocess.Popen(["/bin/true"])
    ended.wait()
    assert leads(host, ended.pid, "/proc/self/exe") is None
