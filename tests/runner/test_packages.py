"""Real package managers as root identity under the privileged builder (P1, P2)."""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runner.conftest import Bench

pytestmark = [
    pytest.mark.P1,
    pytest.mark.P2,
    pytest.mark.xdist_group("packages"),  # dpkg has one lock
    pytest.mark.skipif(os.geteuid() != 0, reason="packages are root's to install"),
]

NAME = "shannot-test-package"
CONTROL = f"""Package: {NAME}
Version: 1.0
Architecture: all
Maintainer: Nobody <nobody@example.invalid>
Description: a package for tests
"""
POSTINST = """#!/bin/sh
set -e
echo configured > /var/lib/shannot-test-package/state
chown www-data:adm /var/lib/shannot-test-package/state
chmod 640 /var/lib/shannot-test-package/state
"""


@pytest.fixture
def alone() -> Iterator[None]:
    """Nobody else of the tests changes the host's packages meanwhile, in whatever worker."""
    with open(f"{tempfile.gettempdir()}/shannot-test-packages.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture
def package(tmp_path: Path, alone: None) -> Iterator[Path]:
    """A small package with a conffile, an owner of its own, a symlink and a script."""
    tree = tmp_path / "tree"
    for directory in ("DEBIAN", "etc", "usr/bin", "var/lib/shannot-test-package"):
        (tree / directory).mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(CONTROL)
    (tree / "DEBIAN/conffiles").write_text("/etc/shannot-test-package.conf\n")
    (tree / "DEBIAN/postinst").write_text(POSTINST)
    (tree / "DEBIAN/postinst").chmod(0o755)
    (tree / "etc/shannot-test-package.conf").write_text("setting = 1\n")
    (tree / "usr/bin/shannot-test-program").write_text("#!/bin/sh\necho hello\n")
    (tree / "usr/bin/shannot-test-program").chmod(0o755)
    (tree / "usr/bin/shannot-test-link").symlink_to("shannot-test-program")
    archive = tmp_path / "package.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "--build", str(tree), str(archive)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    yield archive
    subprocess.run(
        ["dpkg", "--purge", NAME], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def status_of_package() -> str:
    return subprocess.run(
        ["dpkg-query", "-W", "-f=${Status}", NAME], capture_output=True, text=True, check=False
    ).stdout


@pytest.mark.parametrize("builder", ["privileged"], indirect=True)
@pytest.mark.parametrize(
    "command", ["dpkg -i {archive}", "apt-get install -y --no-install-recommends {archive}"]
)
def test_installing_is_previewed_and_applied(bench: Bench, package: Path, command: str) -> None:
    os.chmod(package.parent, 0o755)
    outcome = bench.run(
        "shell",
        f"export DEBIAN_FRONTEND=noninteractive; {command.format(archive=package)}",
        limits={"wall_seconds": 100},
        scratch=["/run/**", "/tmp/**", "/var/cache/**", "/var/log/**"],
    )
    assert outcome.error is None, outcome.error
    assert outcome.exit_code == 0, outcome.stderr.decode()
    assert status_of_package() == "", "the dry run touched the host"
    changes = outcome.changes()
    assert changes["/etc/shannot-test-package.conf"] == "create"
    assert changes["/var/lib/dpkg/status"] in ("modify", "append")
    state = next(s for s in outcome.steps if s.get("path", "").endswith("test-package/state"))
    assert (state["after"]["uid"], state["after"]["gid"]) == (33, 4)

    _, error = bench.runner.apply(outcome)
    assert error is None, error
    assert status_of_package() == "install ok installed"
    installed = Path("/var/lib/shannot-test-package/state")
    assert installed.read_text() == "configured\n"
    assert (installed.stat().st_uid, installed.stat().st_gid) == (33, 4)
    assert installed.stat().st_mode & 0o777 == 0o640
    said = subprocess.run(["/usr/bin/shannot-test-link"], capture_output=True, check=True)
    assert said.stdout == b"hello\n"
    verified = subprocess.run(["dpkg", "--verify", NAME], capture_output=True, check=False)
    assert verified.stdout == b""
