"""Attacks by observed programs over sockets and networks: each works naively, fails here (P1).

Naively means: the same program in the host's namespaces.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.support.observing import ObserverProcess

pytestmark = pytest.mark.P1

CONNECT = """
import socket, sys
for address in sys.argv[1:]:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        try:
            with socket.socket(socket.AF_UNIX, kind) as client:
                client.connect(address.replace("@", chr(0)))
                print("connected", address)
        except OSError:
            pass
    try:
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        left.sendto(b"planted", address.replace("@", chr(0)))
        print("sent", address)
    except OSError:
        pass
"""


@pytest.mark.parametrize("net", ["none", "host", "interfaces"])
def test_sockets_of_the_host_are_out_of_reach(
    observer: ObserverProcess, servers: list[str], net: str
) -> None:
    naive = observer.naive_python(CONNECT, *servers).stdout.splitlines()
    assert naive == [
        f"connected {servers[0]}",
        f"connected {servers[1]}",
        f"sent {servers[1]}",
        f"connected {servers[2]}",
        f"sent {servers[2]}",
    ]
    assert observer.python(CONNECT, *servers, net=net).stdout == ""


def test_one_named_socket_opens_no_other(observer: ObserverProcess, servers: list[str]) -> None:
    """The overlay is the wall here, and the network namespace for the abstract one."""
    seen = observer.python(CONNECT, *servers, sockets=[servers[1]])
    assert seen.stdout.splitlines() == [f"connected {servers[1]}"]


@pytest.mark.parametrize("net", ["host", "interfaces"])
def test_sockets_and_the_hosts_network_exclude_each_other(
    observer: ObserverProcess, net: str
) -> None:
    """The host's abstract sockets would be reachable."""
    seen = observer.run("/bin/true", net=net, sockets=["/run/x"])
    assert seen.error is not None
    assert seen.error["code"] == "invalid_request"


def test_only_a_socket_can_be_named_as_one(observer: ObserverProcess, shelf: Path) -> None:
    os.mkfifo(shelf / "fifo")
    os.symlink("fifo", shelf / "link")
    seen = observer.run("/bin/ls", "/run/planted", sockets=[f"{shelf}/link", "/run/planted"])
    assert seen.exit_code == 2


PORT = """
import socket, sys
for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
        try:
            with socket.socket(family, kind) as client:
                print("socket")
                client.connect((address, int(sys.argv[1])))
                print("connected")
        except OSError:
            pass
"""


@pytest.mark.parametrize("net", ["none", "host"])
def test_ports_of_the_host_are_out_of_reach(observer: ObserverProcess, net: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        assert "connected" in observer.naive_python(PORT, port).stdout
        assert observer.python(PORT, port, net=net).stdout == ""


DATAGRAM = """
import socket, struct, sys
port = int(sys.argv[1])
for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    client = socket.socket(family, socket.SOCK_DGRAM)
    for name, attempt in (
        ("bound", lambda: client.bind((address, 0))),
        ("joined", lambda: client.setsockopt(0, 35, socket.inet_aton("224.0.0.251") + bytes(4))),
        ("sent", lambda: client.sendto(b"planted", (address, port))),
        ("sent a message", lambda: client.sendmsg([b"planted"], [], 0, (address, port))),
        ("connected", lambda: client.connect((address, port))),
        ("written", lambda: client.send(b"planted")),
    ):
        try:
            attempt()
            print(name, end=", ")
        except OSError:
            pass
try:
    socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    print("stream")
except OSError:
    pass
"""


def test_at_interfaces_can_only_be_looked(observer: ObserverProcess) -> None:
    """ifconfig and its like ask by ioctl(2) on a socket: nothing else can be done with it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        port = str(server.getsockname()[1])
        naive = observer.naive_python(DATAGRAM, port).stdout
        assert "bound, " in naive and "sent, sent a message, connected, written, " in naive
        assert "stream" in naive
        for _ in range(3):
            assert server.recv(64) == b"planted"
        assert observer.python(DATAGRAM, port, net="interfaces").stdout == ""
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.recv(64)


UEVENT = """
import socket
with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15) as client:
    client.bind((0, 0))
    client.sendto(b"planted", (0, 1 << 20))
    print("sent")
"""


def test_no_event_of_a_device_can_be_faked(observer: ObserverProcess) -> None:
    if observer.uid == 0:
        assert observer.naive_python(UEVENT).stdout == "sent\n"
    for net in ("none", "host", "interfaces"):
        assert observer.python(UEVENT, net=net).stdout == ""
