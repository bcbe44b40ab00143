"""A system of a test's own: other directories for some of the host's, in a mount namespace.

Root's privilege.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from shannotctl.client import Client, ScriptKind, Session, Submission
from tests.support.daemon import running_daemon

_ENTER = """
while [ "$1" != -- ]; do mount --bind "$2" "$1" || exit 1; shift 2; done; shift; exec "$@"
"""


class PrivateSystem:
    """What stands in the place of some directories for whatever the command `prefix` executes."""

    def __init__(self, base: Path, directories: Sequence[str]) -> None:
        self._base = base
        self._directories = directories

    def path(self, path: str) -> Path:
        """Where `path`, in one of these directories, is for us."""
        return self._base / path.lstrip("/")

    @property
    def prefix(self) -> list[str]:
        """Executes a command, in the same process, within this system."""
        places = [word for path in self._directories for word in (path, str(self.path(path)))]
        unshare = ["unshare", "--mount", "--propagation", "private"]
        return [*unshare, "sh", "-c", _ENTER, "sh", *places, "--"]

    def accounts(self, file: str) -> dict[str, list[str]]:
        """The lines of one of the account files by name, their fields apart."""
        lines = self.path(file).read_text().splitlines()
        return {line.split(":")[0]: line.split(":") for line in lines}


@contextmanager
def private_system(
    *, copies: Sequence[str] = ("/etc",), empty: Sequence[str] = ("/home",)
) -> Iterator[PrivateSystem]:
    """Copies of directories, and empty ones, that nobody else sees; gone afterwards."""
    base = Path(tempfile.mkdtemp(prefix="shannot-system-", dir="/var/tmp"))
    try:
        for path in copies:
            (base / path.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
            # What others make and remove meanwhile (tests their accounts) may be missing.
            subprocess.run(["cp", "-a", path, base / path.lstrip("/")], check=False)
        for path in empty:
            (base / path.lstrip("/")).mkdir(parents=True)
        yield PrivateSystem(base, [*copies, *empty])
    finally:
        shutil.rmtree(base)


@contextmanager
def root_client(system: PrivateSystem, directory: Path) -> Iterator[Client]:
    """A client of a daemon of root's within `system`, which has its files in `directory`."""
    with running_daemon(directory, prefix=system.prefix) as daemon, daemon.client() as client:
        yield client


def submitted(client: Client, text: str) -> Session:
    """A session of a shell's text in root's home."""
    return client.submit(Submission(ScriptKind.SHELL, text.encode(), cwd="/root"))
