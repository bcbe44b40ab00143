"""What of the host's mounts and directories a sandbox shows, and when it refuses to (P1, P8)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shannotd.runner import mounts, versions
from tests.runner.conftest import Bench
from tests.support.runner import REPOSITORY

pytestmark = pytest.mark.P8

# Drives a runner in a mount namespace of its own: the machine's mounts stay as they are.
_DRIVER = """
import ctypes, json, os, subprocess, sys, threading
from pathlib import Path
from tests.support.runner import running_runner

place, state, account, packages = sys.argv[1:5]
libc = ctypes.CDLL(None, use_errno=True)

def mount(source, target, kind=None, flags=0, options=""):
    words = [w and w.encode() for w in (source, str(target), kind)]
    if libc.mount(*words, flags, options.encode()):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), target)

def unmount(target):
    libc.umount2(str(target).encode(), 2)

def runner():
    return running_runner(Path(state), account=account or None, code=Path(packages))

def tell(outcome):
    print(json.dumps([outcome.exit_code, outcome.stdout.decode(), outcome.error]))

os.chdir(place)
"""


class OwnMounts:
    """Runs code as root in a mount namespace of its own, with a runner of the bench's account."""

    def __init__(self, bench: Bench, place: Path, state: Path, packages: Path) -> None:
        words = [str(place), str(state), bench.account or "", str(packages)]
        self._arguments = words
        os.chmod(place, 0o755)
        os.chown(state, bench.uid, -1)

    def run(self, code: str) -> list[Any]:
        """What each `tell` of `code` told."""
        done = subprocess.run(
            ["unshare", "--mount", sys.executable, "-c", _DRIVER + code, *self._arguments],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            check=True,
            timeout=120,
        )
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def own_mounts(bench: Bench, place: Path, packages: Path) -> Iterator[OwnMounts]:
    """A mount namespace for a test; `place` is its working directory."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    with tempfile.TemporaryDirectory(prefix="shannot-test-") as state:
        yield OwnMounts(bench, place, Path(state), packages)


def test_a_mount_where_we_may_not_look_hides_nothing(own_mounts: OwnMounts, place: Path) -> None:
    """To the kernel it is below the directories above it, whoever may search them."""
    (place / "beside").mkdir()
    (place / "closed" / "mnt").mkdir(parents=True)
    (place / "closed").chmod(0o700)
    os.chown(place / "closed", 0, 0)
    (told,) = own_mounts.run(
        "mount('none', 'closed/mnt', 'tmpfs')\n"
        "with runner() as r: tell(r.run('shell', 'ls', cwd=place))\n"
    )
    assert told == [0, "beside\nclosed\n", None]


def test_a_mount_that_tells_its_owner_only_appears_empty(
    own_mounts: OwnMounts, place: Path
) -> None:
    """FUSE answers nobody else, root neither (fuse(4)): it is named, and nothing else suffers."""
    (place / "mnt").mkdir()
    (place / "mnt" / "covered").touch()
    told, limits = own_mounts.run(
        "fuse = os.open('/dev/fuse', os.O_RDWR)\n"
        "owner = f'fd={fuse},rootmode=40000,user_id=65533,group_id=65533'\n"
        "mount('none', 'mnt', 'fuse', 0, owner)\n"
        "with runner() as r:\n"
        "    while not (hello := r.ask({'op': 'hello'}))['ready']: pass\n"
        "    tell(r.run('shell', 'ls; ls -A mnt; echo x > mnt/y', cwd=place))\n"
        "print(json.dumps(hello['limits']))\n"
    )
    assert told == [2, "mnt\n", None]
    assert f"{place}/mnt appears empty" in limits


_TOO_DEEP = """
mount('none', 'base', 'tmpfs')
for name in ('one', 'two', 'below/plain', 'below/mnt'):
    os.makedirs(f'base/{name}')
mount('none', 'base/one', 'overlay', 0, 'lowerdir=base/below:base/two')
mount('none', 'deep', 'overlay', 0, 'lowerdir=base/one:base/two')
"""


@pytest.mark.parametrize("builder", ["one-uid"], indirect=True)
def test_a_directory_that_cannot_be_shown_is_an_error(own_mounts: OwnMounts, place: Path) -> None:
    """An empty one in its place would be a lie."""
    for name in ("base", "deep"):
        (place / name).mkdir()
    told = own_mounts.run(
        f"{_TOO_DEEP}\n"
        "with runner() as r: tell(r.run('shell', 'ls deep', cwd=place))\n"
        "mount('none', 'deep/mnt', 'tmpfs')\n"
        "with runner() as r: tell(r.run('shell', 'ls deep', cwd=place))\n"
    )
    assert told[0] == [0, "", None], "a whole filesystem that refuses appears empty"
    exit_code, output, error = told[1]
    assert (exit_code, output) == (None, "")
    assert error["code"] == "sandbox_unavailable"
    assert error["details"]["reason"].startswith(f"Overlay {place}/deep/plain: ")


def test_a_host_that_changes_all_the_time_is_shown_as_it_is(
    own_mounts: OwnMounts, place: Path
) -> None:
    """Mounts, and directories beside them, that come and go while sandboxes are built."""
    sessions = 15
    (place / "closed").mkdir()
    told = own_mounts.run(
        "places = ['mnt', 'closed/mnt', 'sub/mnt']\n"
        "for path in places: os.makedirs(path)\n"
        "os.chmod('closed', 0o700)\n"
        "done = threading.Event()\n"
        "def change():\n"
        "    while not done.is_set():\n"
        "        for path in places:\n"
        "            mount('/usr', path, None, 4096)\n"
        "            os.mkdir('directory')\n"
        "            os.rmdir('directory')\n"
        "        for path in places: unmount(path)\n"
        "thread = threading.Thread(target=change)\n"
        "thread.start()\n"
        "try:\n"
        "    with runner() as r:\n"
        f"        for number in range({sessions}):\n"
        "            fresh = f'{place}/fresh-{number}'\n"
        "            os.mkdir(fresh)\n"
        "            open(f'{fresh}/file', 'w').close()\n"
        "            tell(r.run('shell', 'ls', cwd=fresh))\n"
        "finally:\n"
        "    done.set()\n"
        "    thread.join()\n"
    )
    assert told == [[0, "file\n", None]] * sessions


_READY = "    while not r.ask({'op': 'hello'})['ready']: pass\n"


@pytest.mark.P1
def test_what_changes_while_a_sandbox_is_warm_is_shown(own_mounts: OwnMounts, place: Path) -> None:
    """Beside a mount some builders copy what they show otherwise."""
    (place / "mnt").mkdir()
    told = own_mounts.run(
        "mount('none', 'mnt', 'tmpfs')\n"
        "Path('file').write_text('first')\n"
        "with runner() as r:\n"
        f"  for text in ('second', 'third', 'third'):\n{_READY}"
        "    Path('file').write_text(text)\n"
        "    tell(r.run('shell', 'cat file; echo; ls', cwd=place))\n"
    )
    assert told == [[0, f"{text}\nfile\nmnt\n", None] for text in ("second", "third", "third")]


@pytest.mark.P1
@pytest.mark.parametrize(
    "change",
    [
        "os.rename('way', 'away'); os.rename('other', 'way')",
        "os.rename('beside', 'other/old'); os.rename('other/new', 'beside')",
        "os.chmod('way', 0o751)",
        "os.chmod('way/mnt', 0o711)",
    ],
    ids=["above a mount", "beside a mount", "rights above a mount", "rights of a mount"],
)
def test_a_directory_that_changes_while_a_sandbox_is_warm_is_shown(
    own_mounts: OwnMounts, place: Path, change: str
) -> None:
    """What is mounted holds on to the directories that lead there."""
    for name in ("way/mnt", "beside/of this", "other/new/of the other"):
        (place / name).mkdir(parents=True)
    look = "stat -c %a way way/mnt; ls way beside"
    told = own_mounts.run(
        "mount('none', 'way/mnt', 'tmpfs', 0, 'mode=755')\n"
        "subprocess.run('chown -R --reference=. *', shell=True, check=True)\n"
        f"look = {look!r}\n"
        "with runner() as r:\n"
        f"{_READY}"
        f"    {change}\n"
        "    tell(r.run('shell', look, cwd=place))\n"
        "told = subprocess.run(look, shell=True, stdout=subprocess.PIPE, text=True)\n"
        "print(json.dumps([told.returncode, told.stdout, None]))\n"
    )
    assert told[0] == told[1]


@pytest.mark.P1
def test_who_looks_into_a_warm_sandbox_has_it_remember_nothing(
    own_mounts: OwnMounts, place: Path
) -> None:
    """From outside, as root: there are scanners that read what is below each /proc/PID/root."""
    told = own_mounts.run(
        "from tests.support.processes import descendants, inner_pid\n"
        "Path('replaced').write_text('then\\n')\n"
        "with runner() as r:\n"
        f"{_READY}"
        "    for pid in descendants(r.process.pid):\n"
        "        if inner_pid(pid) == 1:\n"
        "            seen = Path(f'/proc/{pid}/root{place}')\n"
        "            assert not (seen / 'new').exists()\n"
        "            assert not (seen / 'replaced').exists()\n"
        "    Path('new').write_text('now\\n')\n"
        "    os.rename('new', 'replaced')\n"
        "    Path('new').touch()\n"
        "    tell(r.run('shell', 'ls; cat replaced', cwd=place))\n"
    )
    assert told == [[0, "new\nreplaced\nnow\n", None]]


@pytest.mark.P1
def test_a_module_that_came_while_a_sandbox_was_warm_is_imported(
    own_mounts: OwnMounts, place: Path
) -> None:
    """Its interpreter is warm as well, and has looked where modules are."""
    told = own_mounts.run(
        "modules = '/usr/lib/python3/dist-packages'\n"
        "mount('none', modules, 'tmpfs')\n"
        "with runner() as r:\n"
        f"  for number in range(3):\n{_READY}"
        "    Path(modules, 'new').write_text(f'print({number})')\n"
        "    os.rename(f'{modules}/new', f'{modules}/lately.py')\n"
        "    tell(r.run('python', 'import lately', cwd=place))\n"
    )
    assert told == [[0, f"{number}\n", None] for number in range(3)]


_ATTRIBUTES = """
import os
for name in ("bound", "beside"):
    if "user.old" in os.listxattr(name):
        os.removexattr(name, "user.old")
    BARRIER
    os.setxattr(name, "user.overlay.opaque", b"y")
"""


@pytest.mark.P2
@pytest.mark.parametrize("barrier", ["pass", "os.system('setarch')"], ids=["at once", "in two"])
def test_attributes_of_what_a_layer_begins_with_are_recorded(
    own_mounts: OwnMounts, place: Path, barrier: str, builder: str
) -> None:
    """Where they are all that changed, too; those of a mount are there to be taken away."""
    for name in ("bound", "beside"):
        (place / name).mkdir()
        os.chown(place / name, place.stat().st_uid, -1)
    os.setxattr(place / "bound", "user.old", b"1")
    os.setxattr(place / "bound", "user.kept", b"1")
    (found,) = own_mounts.run(
        "from tests.support.runner import review\n"
        "mount(f'{place}/bound', 'bound', None, 4096)\n"
        "with runner() as r:\n"
        f"    source = {_ATTRIBUTES.replace('BARRIER', barrier)!r}\n"
        "    how = {'cwd': place, 'shims': ['setarch'], 'decide': lambda _: review()}\n"
        "    told = r.run('python', source, **how)\n"
        "print(json.dumps([told.error, told.stderr.decode(), told.steps]))\n"
    )
    error, said, steps = found
    assert (error, said) == (None, "")
    last = {step["path"]: step["after"]["xattrs"] for step in steps if step["kind"] == "file"}
    old = {"user.old": "31"} if builder == "one-uid" else {}
    assert last == {
        f"{place}/bound": {**old, "user.kept": "31", "user.overlay.opaque": "79"},
        f"{place}/beside": {"user.overlay.opaque": "79"},
    }


def test_a_copy_has_the_directories_that_the_layout_saw(tmp_path: Path) -> None:
    """A later one has no overlay: it would appear empty."""
    source, copy = tmp_path / "source", tmp_path / "copy"
    for directory in (source / "seen", source / "later", copy):
        directory.mkdir(parents=True)
    (source / "file").write_text("x")
    mounts.fill_skeleton(str(source), str(copy), {"seen"})
    assert sorted(os.listdir(copy)) == ["file", "seen"]


def test_every_change_of_what_is_copied_is_seen(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("one")
    (tmp_path / "directory").mkdir()
    looks = [versions.look(str(tmp_path))]
    for change in (
        lambda: (tmp_path / "file").write_text("two"),
        lambda: (tmp_path / "file").chmod(0o600),
        lambda: (tmp_path / "directory").chmod(0o700),
        lambda: (tmp_path / "new").symlink_to("file"),
        lambda: (tmp_path / "file").unlink(),
        lambda: (tmp_path / "directory").rmdir(),
    ):
        change()
        looks.append(versions.look(str(tmp_path)))
    assert len(set(looks)) == len(looks)
    assert versions.look(str(tmp_path / "missing")) == ()
