"""Private keys of TLS servers: what names them is checked, and nobody sees them (P1)."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shannotctl.client import Client, ScriptKind, State, Submission
from shannotd.runner import tls_keys
from shannotd.runner.host_keys import MARK
from shannotd.runner.tls_keys import stand_in
from tests.support.accounts import is_root
from tests.support.private_system import PrivateSystem, private_system, root_client, submitted

pytestmark = [
    pytest.mark.P1,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl"),
]

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
RSA = "genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:2048"
EC = "genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:"
MAKE = {
    "rsa": RSA,
    "p256": EC + "P-256",
    "p521": EC + "P-521",
}


def openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)


def make_pair(directory: Path, kind: str, *, old: bool = False) -> tuple[Path, Path]:
    """A private key and its certificate; `old`: in a format of its own for each kind."""
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    made = directory / "made.pem" if old else key
    openssl(*MAKE[kind].split(), "-out", str(made))
    if old:
        openssl("pkey", "-in", str(made), "-traditional", "-out", str(key))
    openssl(
        *("req", "-x509", "-new", "-key", str(key), "-subj", "/CN=x", "-days", "9"),
        *("-out", str(certificate)),
    )
    return key, certificate


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("old", [False, True])
def test_a_stand_in_fits_its_certificate_and_has_no_secret(
    tmp_path: Path, kind: str, old: bool
) -> None:
    key, certificate = make_pair(tmp_path, kind, old=old)
    made = stand_in(key.read_bytes())
    assert made is not None and made.endswith(MARK + b"\n")
    secret = key.read_bytes().splitlines()
    assert secret[0] in made.splitlines() and made != key.read_bytes()
    assert stand_in(key.read_bytes()) != made, "nobody finds it out"
    other = tmp_path / "other.pem"
    other.write_bytes(made)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, other)
    # What it signs is not what the certificate says.
    (tmp_path / "text").write_text("x")
    signed = subprocess.run(
        ["openssl", "dgst", "-sha256", "-sign", other, "-out", tmp_path / "signed", "text"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    if signed.returncode == 0:
        openssl(
            *("x509", "-in", str(certificate), "-pubkey", "-noout"),
            *("-out", str(tmp_path / "public")),
        )
        command = [
            "openssl",
            "dgst",
            "-sha256",
            "-verify",
            "public",
            "-signature",
            "signed",
            "text",
        ]
        assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode


def test_what_is_public_stays_as_it_is(tmp_path: Path) -> None:
    _, certificate = make_pair(tmp_path, "p256")
    text = b"a note\n" + certificate.read_bytes() * 2
    assert stand_in(text) == text


def test_a_key_with_its_certificate_in_one_file(tmp_path: Path) -> None:
    key, certificate = make_pair(tmp_path, "p256")
    both = tmp_path / "both.pem"
    made = stand_in(certificate.read_bytes() + key.read_bytes())
    assert made is not None
    both.write_bytes(made)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(both)


def test_what_may_hold_another_secret_has_no_stand_in(tmp_path: Path) -> None:
    key, _ = make_pair(tmp_path, "p256")
    openssl("genpkey", "-algorithm", "ed25519", "-out", str(tmp_path / "ed"))
    openssl(
        "pkey", "-in", str(key), "-aes128", "-passout", "pass:word", "-out", str(tmp_path / "c")
    )
    openssl("ec", "-in", str(key), "-no_public", "-out", str(tmp_path / "short"))
    begin, end = (b"-----%b PRIVATE KEY-----\n" % word for word in (b"BEGIN", b"END"))
    texts = [(tmp_path / name).read_bytes() for name in ("ed", "c", "short")]
    texts += [b"", b"password", begin + b"AAAA\n" + end, begin + b"????\n" + end]
    texts += [key.read_bytes().replace(b"PRIVATE KEY", b"SECRET")]
    for text in texts:
        assert stand_in(text) is None, text


def test_a_directory_that_is_too_large_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_keys, "MAX_FILES", 3)
    for name in "abcd":
        (tmp_path / name).touch()
    assert tls_keys.entries(str(tmp_path)) is None


# A script of root.


@pytest.fixture(scope="module")
def system() -> Iterator[PrivateSystem]:
    """A system with keys where Debian and certbot have them."""
    if not is_root():
        pytest.skip("scripts of root")
    with private_system() as made:
        shutil.rmtree(made.path("/etc/ssl/private"), ignore_errors=True)
        archive = made.path("/etc/letsencrypt/archive/x")
        for place in (made.path("/etc/ssl/private"), archive, archive.parents[1] / "live/x"):
            place.mkdir(parents=True)
        key, certificate = make_pair(archive, "p256")
        key.chmod(0o600)
        for path in (key, certificate):
            (archive.parents[1] / "live/x" / path.name).symlink_to(f"../../archive/x/{path.name}")
        shutil.copy(key, made.path("/etc/ssl/private/key.pem"))
        made.path("/etc/ssl/private/password").write_text("secret")
        yield made


@pytest.fixture(scope="module")
def client(system: PrivateSystem, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a daemon of root's in it."""
    with root_client(system, tmp_path_factory.mktemp("d") / "d") as connected:
        yield connected


CONFIGURATION = """
pid /tmp/n.pid; error_log /tmp/n.log; events {}
http { access_log off; server { listen 443 ssl; ssl_certificate /etc/letsencrypt/live/x/%s;
ssl_certificate_key /etc/letsencrypt/live/x/key.pem; } }
"""


@pytest.mark.skipif(NGINX is None, reason="no nginx")
def test_the_configuration_of_a_server_is_checked(client: Client) -> None:
    command = (
        "cat > /root/shannot-test-n.conf && nginx -e /tmp/n.log -t -c /root/shannot-test-n.conf"
    )
    for name, good in (("certificate.pem", True), ("none.pem", False)):
        script = Submission(
            ScriptKind.SHELL, command.encode(), stdin=(CONFIGURATION % name).encode(), cwd="/root"
        )
        session = client.submit(script)
        assert session.state is (State.PENDING if good else State.FAILED), session.stderr
        if good:
            assert b"test is successful" in session.stderr
            client.reject(session.id, "")


def test_root_sees_no_secret(client: Client, system: PrivateSystem) -> None:
    session = submitted(
        client,
        "cat /etc/letsencrypt/live/x/* /etc/ssl/private/key.pem; stat -c %a%U /etc/ssl/private/*;"
        " cat /etc/ssl/private/password",
    )
    assert session.state is State.EXECUTED and session.exit_code == 1
    certificate = system.path("/etc/letsencrypt/archive/x/certificate.pem").read_bytes()
    assert certificate in session.stdout
    key = system.path("/etc/ssl/private/key.pem").read_bytes().splitlines()
    assert key[2] not in session.stdout, "the middle of the key has its secret"
    assert session.stdout.count(MARK) == 2
    assert b"password: Permission denied" in session.stderr and b"secret" not in session.stdout


@pytest.mark.parametrize(
    ("text", "failed"),
    [
        ("cp /etc/ssl/private/key.pem /root/shannot-test-copy", True),
        ("cp -a /etc/letsencrypt/archive /root/shannot-test-copy", True),
        ("cp /etc/letsencrypt/live/x/certificate.pem /root/shannot-test-copy", False),
        ("echo x > /etc/ssl/private/key.pem; rm /etc/ssl/private/key.pem; true", None),
    ],
)
def test_keys_are_not_copied_or_changed(client: Client, text: str, failed: bool | None) -> None:
    session = submitted(client, text)
    if failed:
        assert session.error is not None and session.error.code == "capture_failed", session
    elif failed is None:
        assert session.state is State.EXECUTED, session
    else:
        assert session.state is State.PENDING, session
        client.reject(session.id, "")
