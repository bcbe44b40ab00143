"""A system of a test's own: copies of /etc and /home in a mount namespace. Root's privilege."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_ENTER = 'mount --bind "$1" /etc && mount --bind "$2" /home && shift 2 && exec "$@"'


@dataclass(frozen=True)
class PrivateSystem:
    """What is /etc and /home for whatever the command `prefix` executes."""

    etc: Path
    home: Path

    @property
    def prefix(self) -> list[str]:
        """Executes a command, in the same process, where these directories are."""
        places = (str(self.etc), str(self.home))
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", _ENTER, "sh", *places]

    def accounts(self, file: str) -> dict[str, list[str]]:
        """The lines of one of the account files by name, their fields apart."""
        lines = (self.etc / file).read_text().splitlines()
        return {line.split(":")[0]: line.split(":") for line in lines}


@contextmanager
def private_system() -> Iterator[PrivateSystem]:
    """Copies that nobody else sees; gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="shannot-system-", dir="/var/tmp"))
    try:
        # What others make and remove meanwhile (tests their accounts) may be missing.
        subprocess.run(["cp", "-a", "/etc", directory / "etc"], check=False)
        (directory / "home").mkdir()
        yield PrivateSystem(directory / "etc", directory / "home")
    finally:
        shutil.rmtree(directory)
