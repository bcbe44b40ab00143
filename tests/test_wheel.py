"""What is installed is complete: a wheel, in a virtual environment of its own."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.embedded import Home, temporary_home

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built without a network."""
    directory = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    command += ["--no-deps", "--no-build-isolation", "--wheel-dir", str(directory)]
    subprocess.run([*command, str(REPOSITORY)], check=True)
    (built,) = directory.iterdir()
    return built


@pytest.fixture
def home() -> Iterator[Home]:
    with temporary_home() as made:
        yield made


def test_it_has_every_file_of_the_packages(wheel: Path) -> None:
    present = {
        str(path.relative_to(REPOSITORY))
        for package in ("shannotd", "shannotctl")
        for path in (REPOSITORY / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == present
    assert "shannotd/policy/risk.toml" in packed


def test_it_runs_where_nothing_else_is(wheel: Path, home: Home, tmp_path: Path) -> None:
    """The dependencies are those that the tests have: nothing is fetched."""
    subprocess.run(["/usr/bin/python3", "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*install, "--no-deps", "--no-index", str(wheel)], check=True)
    asked = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(asked, check=True, capture_output=True, text=True).stdout[:-1])
    others = [path for path in sys.path if path.endswith("-packages")]
    (packages / "others.pth").write_text("\n".join(others) + "\n")

    program = str(tmp_path / "venv" / "bin" / "shannotctl")
    command = [program, "submit", "-c", "import sys; print(1 + 1, sys.executable)"]
    done = subprocess.run(
        command, cwd=home.work, env=home.environment, capture_output=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, b"2 /usr/bin/python3\n"), done.stderr
    where = [str(python), "-c", "import shannotd; print(shannotd.__file__)"]
    found = subprocess.run(where, check=True, capture_output=True, text=True, cwd="/").stdout
    assert found.startswith(str(packages))
