"""Keys of an SSH server: its configuration can be checked, and no script has the keys (P1)."""

from __future__ import annotations

import base64
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shannotctl.client import Client, State
from shannotd.runner.host_keys import MARK, is_host_key, stand_in
from tests.support.accounts import is_root
from tests.support.private_system import PrivateSystem, private_system, root_client, submitted

pytestmark = pytest.mark.P1

KINDS = [("rsa", "2048"), ("ecdsa", "256"), ("ecdsa", "521"), ("ed25519", "256")]
needs_keygen = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen")


def make_key(path: Path, kind: str, bits: str) -> None:
    command = ["ssh-keygen", "-q", "-t", kind, "-b", bits, "-N", "", "-C", "", "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


@needs_keygen
@pytest.mark.parametrize(("kind", "bits"), KINDS)
def test_a_stand_in_has_the_public_part_and_not_the_secret(
    tmp_path: Path, kind: str, bits: str
) -> None:
    key = tmp_path / "key"
    make_key(key, kind, bits)
    other = tmp_path / "other"
    made = stand_in(str(key))
    assert made is not None and made.endswith(MARK + b"\n")
    other.write_bytes(made)
    other.chmod(0o600)
    public = [
        subprocess.run(["ssh-keygen", "-y", "-f", path], capture_output=True, check=True).stdout
        for path in (key, other)
    ]
    assert public[0] == public[1]

    def secret(path: Path) -> bytes:
        lines = path.read_bytes().split(b"-----\n")[1].split(b"\n-----")[0]
        return base64.b64decode(lines)[-64:]

    assert secret(key) != secret(other)
    again = stand_in(str(key))
    assert again != made, "nobody finds it out"


def test_what_is_no_public_key_has_no_stand_in(tmp_path: Path) -> None:
    for text in ("", "ssh-rsa", "ssh-rsa AAAA", "ssh-rsa ????", "ssh-dss AAAAB3NzaC1kc3M= x"):
        (tmp_path / "key.pub").write_text(text)
        assert stand_in(str(tmp_path / "key")) is None, text
    assert stand_in(str(tmp_path / "none")) is None


def test_which_files_are_host_keys() -> None:
    assert is_host_key("/etc/ssh/ssh_host_rsa_key")
    for path in (
        "/etc/ssh/ssh_host_rsa_key.pub",
        "/etc/ssh/ssh_host_a/b_key",
        "/srv/ssh_host_a_key",
    ):
        assert not is_host_key(path)


# A script of root.


@pytest.fixture(scope="module")
def system() -> Iterator[PrivateSystem]:
    """A system with keys of its own, and a secret."""
    if not is_root():
        pytest.skip("scripts of root")
    with private_system() as made:
        place = made.path("/etc/ssh")
        place.mkdir(exist_ok=True)
        for old in place.glob("ssh_host_*"):
            old.unlink()
        for kind, bits in KINDS[1:3]:
            make_key(place / f"ssh_host_{kind}{bits}_key", kind, bits)
        made.path("/etc/krb5.keytab").write_text("secret")
        private = made.path("/etc/wireguard")
        private.mkdir(exist_ok=True)
        (private / "key").write_text("secret")
        yield made


@pytest.fixture(scope="module")
def client(system: PrivateSystem, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a daemon of root's in it."""
    with root_client(system, tmp_path_factory.mktemp("d") / "d") as connected:
        yield connected


@needs_keygen
def test_root_finds_other_keys_with_the_same_public_part(
    client: Client, system: PrivateSystem
) -> None:
    name = "/etc/ssh/ssh_host_ecdsa256_key"
    session = submitted(client, f"stat -c %a%U {name}; ssh-keygen -yf {name}; cat {name}")
    assert session.state is State.EXECUTED, session
    public = system.path(name + ".pub").read_bytes().split()
    assert session.stdout.startswith(b"600root\n" + b" ".join(public[:2]) + b"\n")
    # The last line but one has the end of the secret.
    assert system.path(name).read_bytes().splitlines()[-2] not in session.stdout


@needs_keygen
def test_a_key_cannot_be_copied_or_changed(client: Client) -> None:
    name = "/etc/ssh/ssh_host_ecdsa256_key"
    for text in (f"cp {name} /root/shannot-test-copy", f"mv {name} /root/shannot-test-copy; true"):
        session = submitted(client, text)
        assert session.error is not None and session.error.code == "capture_failed", session
    session = submitted(client, f"echo x > {name}; chmod 644 {name}; rm -f {name}")
    assert session.state is State.EXECUTED and session.exit_code != 0


@pytest.mark.skipif(shutil.which("sshd", path="/usr/sbin") is None, reason="no sshd")
def test_the_configuration_of_a_server_is_checked(client: Client, system: PrivateSystem) -> None:
    place = system.path("/etc/ssh/sshd_config.d")
    keys = "".join(
        f"HostKey {path}\n"
        for path in ("/etc/ssh/ssh_host_ecdsa256_key", "/etc/ssh/ssh_host_ecdsa521_key")
    )
    place.mkdir(exist_ok=True)
    (place / "keys.conf").write_text(keys)
    change = "echo 'MaxAuthTries {}' > /etc/ssh/sshd_config.d/tries.conf && sshd -t"
    good = submitted(client, change.format(3))
    assert (good.state, good.stderr) == (State.PENDING, b"")
    client.reject(good.id, "")
    bad = submitted(client, change.format("x"))
    assert bad.state is State.FAILED and b"integer" in bad.stderr


def test_what_is_hidden_cannot_be_read_by_root(client: Client) -> None:
    """An empty file or directory would be copied as if it were all."""
    for text in (
        "cat /etc/krb5.keytab",
        "ls /etc/wireguard",
        "cp /etc/krb5.keytab /root/shannot-test-copy",
        "chmod 644 /etc/krb5.keytab && cat /etc/krb5.keytab",
    ):
        session = submitted(client, text)
        assert (session.exit_code != 0 and session.plan is None) or not session.plan.steps, text
        assert b"Permission denied" in session.stderr or b"Read-only" in session.stderr, text
        assert b"secret" not in session.stdout
