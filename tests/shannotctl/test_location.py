"""Where the socket is looked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shannotctl.location import Location, find_socket, state_directory


def test_the_variable_comes_first(tmp_path: Path) -> None:
    service = tmp_path / "service"
    service.touch()
    environment = {"SHANNOT_SOCKET": "/x/y", "XDG_RUNTIME_DIR": str(tmp_path)}
    assert find_socket(environment, str(service)) == Location("/x/y", embedded=False)


def test_then_the_service(tmp_path: Path) -> None:
    service = tmp_path / "service"
    service.touch()
    environment = {"XDG_RUNTIME_DIR": str(tmp_path), "SHANNOT_SOCKET": ""}
    assert find_socket(environment, str(service)) == Location(str(service), embedded=False)


def test_then_the_runtime_directory(tmp_path: Path) -> None:
    found = find_socket({"XDG_RUNTIME_DIR": str(tmp_path)}, "/nonexistent")
    assert found == Location(f"{tmp_path}/shannot/shannotd.sock", embedded=True)


@pytest.mark.parametrize("runtime", ["", "relative", "/nonexistent/run"])
def test_else_the_state_directory(runtime: str) -> None:
    environment = {"HOME": "/home/somebody", "XDG_RUNTIME_DIR": runtime}
    found = find_socket(environment, "/nonexistent")
    expected = "/home/somebody/.local/state/shannot/run/shannotd.sock"
    assert found == Location(expected, embedded=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a directory somebody else's")
def test_a_runtime_directory_of_somebody_else_is_not_used(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12345)
    found = find_socket({"HOME": "/root", "XDG_RUNTIME_DIR": str(tmp_path)}, "/nonexistent")
    assert found.path.startswith("/root/")


def test_the_state_directory() -> None:
    assert state_directory({"HOME": "/h"}) == "/h/.local/state/shannot"
    assert state_directory({"HOME": "/h", "XDG_STATE_HOME": "/s"}) == "/s/shannot"
    assert state_directory({"HOME": "/h", "XDG_STATE_HOME": "s"}) == "/h/.local/state/shannot"
