"""What is refused before anything of a plan is applied, and before the review where it can be
known by then: each on the real thing (P2, P4)."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from shannotd.runner import exchange, kernel, permission, tree
from shannotd.runner.plan import ABSENT, FileStep, Identity
from tests.runner import overlays
from tests.runner.conftest import Bench
from tests.runner.overlays import Applied, Recording
from tests.runner.test_apply import ROOT, apply, in_a_namespace, record
from tests.support.accounts import is_root
from tests.support.applying import applying, command
from tests.support.runner import RunnerProcess, running_runner

Fresh = Callable[..., AbstractContextManager[RunnerProcess]]

pytestmark = pytest.mark.skipif(not is_root(), reason="makes mounts, flags and accounts")

# linux/fs.h
_FS_IOC_GETFLAGS, _FS_IOC_SETFLAGS = 0x80086601, 0x40086602
_FLAGS = {"i": 0x10, "a": 0x20}


@contextmanager
def flag(path: Path | str, letter: str) -> Iterator[None]:
    """The file with a flag, as by chattr(1); wherever it is by then it loses it again."""
    descriptor = os.open(path, os.O_RDONLY)
    before = fcntl.ioctl(descriptor, _FS_IOC_GETFLAGS, bytes(8))
    with_it = int.from_bytes(before, sys.byteorder) | _FLAGS[letter]
    try:
        fcntl.ioctl(descriptor, _FS_IOC_SETFLAGS, with_it.to_bytes(8, sys.byteorder))
        try:
            yield
        finally:
            fcntl.ioctl(descriptor, _FS_IOC_SETFLAGS, before)
    finally:
        os.close(descriptor)


@contextmanager
def unchanged(directory: Path) -> Iterator[None]:
    """Nothing below `directory` is another afterwards."""
    before = overlays.snapshot(directory)
    yield
    assert overlays.snapshot(directory) == before


def early(recording: Recording, who: Identity = ROOT) -> str | None:
    """The reason for which a recorded plan is refused before the review."""
    found = permission.first_refusal(overlays.file_steps(recording), who)
    return None if found is None else found[2]


def late(applied: Applied) -> str:
    """The reason for which an apply was refused."""
    assert applied.code == "not_permitted", applied
    assert applied.error is not None
    assert "done" not in applied.steps.values()
    return str(applied.error["details"]["reason"])


def image(top: Path, kind: str, megabytes: int, *options: str) -> Path:
    """A new file with a filesystem of that kind in it."""
    path = top / "image"
    with path.open("wb") as file:
        file.truncate(megabytes << 20)
    subprocess.run([f"mkfs.{kind}", "-q", *options, path], check=True)
    return path


def mount_image(path: Path, place: Path, options: str = "") -> None:
    """Mount it in this process's own namespace."""
    subprocess.run(["mount", "-o", f"loop,{options}".rstrip(","), path, place], check=True)


# Before anything, commands too


@pytest.mark.P2
def test_nothing_is_begun_where_the_last_step_is_refused(top: Path) -> None:
    """Not even the commands before it."""
    ran, file = top / "host/ran", top / "host/file"
    file.write_text("old")
    state = tree.state(str(file))
    steps = [command("/bin/touch", str(ran)), FileStep("delete", str(file), state, ABSENT)]
    with flag(file, "i"), applying(steps, ROOT) as applied:
        assert applied.finish().code == "not_permitted"
    assert applied.steps == {0: "skipped", 1: "skipped"}
    assert applied.error is not None
    assert applied.error["details"]["reason"] == "it is immutable (chattr +i)"
    assert applied.error["details"]["applied"] == "none"
    assert not ran.exists()
    assert file.read_text() == "old"
    with applying(steps, ROOT) as applied:
        assert applied.finish().error is None
    assert ran.exists()


# Flags


@pytest.mark.P2
def test_an_append_to_an_append_only_file(top: Path) -> None:
    """It could only be made in place, where a crash may tear it."""
    recording = record(top, "write('log', 'one\\n')", "open('log', 'a').write('two\\n')")
    with flag(top / "host/log", "a"), unchanged(top / "host"):
        for reason in (early(recording), late(apply(recording))):
            assert reason == (
                "it is append-only (chattr +a), and what is appended comes with a new file in"
                " its place"
            )
    assert apply(recording).error is None


@pytest.mark.P2
@pytest.mark.parametrize("letter", ["i", "a"])
@pytest.mark.parametrize("path", ["tree/sub/file", "tree/sub"])
@pytest.mark.parametrize(
    "change", ["shutil.rmtree('tree')", "shutil.rmtree('tree')\nos.mkdir('tree')"]
)
def test_what_cannot_be_removed_in_a_tree_that_goes(
    change: str, path: str, letter: str, top: Path
) -> None:
    """It would be left over when all else is done."""
    layout = "os.makedirs('tree/sub')\nwrite('tree/sub/file', 'x')\nwrite('other', 'old')"
    recording = record(top, layout, f"{change}\nwrite('other', 'new')")
    flagged = top / "host" / path
    with flag(flagged, letter), unchanged(top / "host"):
        applied = apply(recording)
        assert "(chattr +" in late(applied)
        assert applied.error is not None
        assert str(flagged) in " ".join(map(str, applied.error["details"].values()))
    assert apply(recording).error is None


def test_a_tree_that_moves_takes_such_files_along(top: Path) -> None:
    layout = "os.mkdir('tree')\nwrite('tree/file', 'x')"
    recording = record(top, layout, "os.rename('tree', 'moved')")
    with flag(top / "host/tree/file", "i"):
        assert apply(recording).error is None
    assert (top / "host/moved/file").read_text() == "x"


def test_a_script_meets_the_flags_itself(bench: Bench, place: Path) -> None:
    """The overlay has those of the host's files, and so has its refusal."""
    (place / "tree").mkdir()
    (place / "tree/file").write_text("x")
    os.chown(place / "tree", bench.uid, -1)
    with flag(place / "tree/file", "i"):
        outcome = bench.run("shell", "rm -rf tree; echo $?; ls tree", cwd=str(place))
    assert outcome.stdout == b"1\nfile\n"
    assert b"Operation not permitted" in outcome.stderr
    assert outcome.changes() == {}


# Mounts


def read_only(path: Path) -> None:
    kernel.mount(str(path), str(path), None, kernel.MS_BIND)
    flags = kernel.MS_BIND | kernel.MS_REMOUNT | kernel.MS_RDONLY
    kernel.mount(None, str(path), None, flags)


READ_ONLY = "is on a filesystem that is mounted read-only"


@pytest.mark.P2
@pytest.mark.parametrize(
    "change",
    [
        "write('d/new', 'x')",
        "write('d/file', 'new')",
        "open('d/file', 'a').write('more')",
        "os.unlink('d/file')",
        "os.rename('d/file', 'd/moved')",
        "os.chmod('d/file', 0o600)",
        "os.chmod('d', 0o700)",
    ],
)
@pytest.mark.parametrize("how", ["bind", "image"])
def test_every_change_on_a_read_only_filesystem(how: str, change: str, top: Path) -> None:
    layout = "os.mkdir('d')\nwrite('d/file', 'old')"

    def work() -> None:
        if how == "image":
            mount_image(image(top, "ext4", 8), top / "host")
        recording = record(top, layout, change)
        if how == "image":
            kernel.mount(None, str(top / "host"), None, kernel.MS_REMOUNT | kernel.MS_RDONLY)
        else:
            read_only(top / "host")
        with unchanged(top / "host"):
            for reason in (early(recording), late(apply(recording))):
                assert reason is not None
                assert reason.endswith(READ_ONLY)

    in_a_namespace(work)


@pytest.mark.P2
def test_the_root_of_a_read_only_mount(top: Path) -> None:
    """Its own mount counts, not that of the directory that it is in."""
    recording = record(top, "os.mkdir('d')", "os.chmod('d', 0o700)")

    def work() -> None:
        read_only(top / "host/d")
        for reason in (early(recording), late(apply(recording))):
            assert reason == f"it {READ_ONLY}"

    in_a_namespace(work)


@pytest.mark.P2
def test_a_file_that_is_in_use_as_swap_space(top: Path) -> None:
    layout = "write('swap', '\\0' * (1 << 20), 0o600)\nos.mkdir('d')\nos.link('swap', 'd/swap')"
    recording = record(top, layout, "os.unlink('swap')\nos.unlink('d/swap')\nos.rmdir('d')")
    swap = top / "host/d/swap"
    subprocess.run(["mkswap", "-q", swap], check=True)
    used = subprocess.run(["swapon", swap], capture_output=True, check=False)
    if used.returncode != 0:
        pytest.skip(f"this machine swaps to no file: {used.stderr!r}")
    try:
        for step in overlays.file_steps(recording):
            reason = permission.first_refusal([step], ROOT)
            if step.path.endswith("/d/swap"):
                assert reason is not None
                assert reason[2] == "it is in use as swap space"
        with pytest.raises(OSError, match="not permitted"):
            os.unlink(swap)  # what the kernel says of it
    finally:
        subprocess.run(["swapoff", swap], check=True)


# What is shannot's own, or the host's configuration keeps


@pytest.mark.P2
def test_a_plan_does_not_move_what_shannot_works_with(
    bench: Bench, fresh: Fresh, place: Path
) -> None:
    """The sandbox hides it; a directory above it could still be moved."""
    with fresh() as runner:
        above = runner.state.parent
        script = "import os, sys\nos.rename(sys.argv[1], sys.argv[2])"
        outcome = runner.run("python", script, str(runner.state), f"{place}/moved")
        assert outcome.exit_code != 0  # a mount is in its way
        if bench.builder != "privileged":
            return  # where a script renames no directory of the host at all
        outcome = runner.run("python", script, str(above), f"{above}-moved")
    assert outcome.exit_code == 0
    assert outcome.error is not None
    assert outcome.error["code"] == "not_permitted"
    assert "is where shannot keeps sessions" in outcome.error["details"]["reason"]


@pytest.mark.P2
@pytest.mark.parametrize("step", ["delete", "modify", "rename", "inside"])
def test_an_apply_does_not_touch_the_directories_of_shannot(step: str, top: Path) -> None:
    layout = "os.makedirs('var/state')\nwrite('var/state/key', 'k')\nos.symlink('var', 'link')"
    change = {
        "delete": "shutil.rmtree('var')",
        "modify": "write('var/state/key', 'x')",
        "rename": "os.rename('var', 'moved')",
        "inside": "write('var/state/new', 'x')",
    }[step]
    recording = record(top, layout, change)
    found = overlays.plan_of(recording, ROOT)
    with unchanged(top / "host"):
        # However it was named: by a link too.
        own = [f"{top}/host/link/state"]
        applied = overlays.apply_plan(found, recording.contents, own=own)
        assert late(applied).endswith("is where shannot keeps sessions, keys and checkpoints")
    assert overlays.apply_plan(found, recording.contents, own=[f"{top}/other"]).error is None


@pytest.mark.P2
def test_what_the_floor_protects_is_said_before_the_review(top: Path) -> None:
    (top / "etc").mkdir()
    (top / "state").mkdir()
    (top / "host/kept").write_text("old")

    def work() -> dict[str, object] | None:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        floor = f"[paths]\nprotected = {top}/host/kept\n"
        overlays.over_etc(top / "etc", {"shannot/runner.conf": floor})
        with running_runner(top / "state") as runner:
            script = "import os\nos.unlink('kept')\nopen('new', 'w').close()"
            outcome = runner.run("python", script, cwd=f"{top}/host", scratch=())
        return outcome.error

    error = overlays.in_child(work)
    assert error is not None
    assert error["code"] == "not_permitted"
    details = error["details"]
    assert isinstance(details, dict)
    assert details["path"] == f"{top}/host/kept"
    assert details["reason"] == "it is protected by the runner's runner.conf"


# Filesystems that cannot do what an apply goes by


@contextmanager
def fuse(top: Path) -> Iterator[None]:
    """A filesystem at `top`/host that only renames without flags, as NFS does."""
    (top / "below").mkdir()
    subprocess.run(["bindfs", top / "below", top / "host"], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", top / "host"], check=True)


LACKS = "it is on a filesystem (fuse) that lacks what an apply goes by: "


@pytest.mark.P2
@pytest.mark.parametrize(
    ("change", "lacks"),
    [
        ("write('new', 'x')", "renaming that replaces nothing (RENAME_NOREPLACE)"),
        ("os.unlink('file')", "renaming that replaces nothing (RENAME_NOREPLACE)"),
        ("os.rename('file', 'moved')", "renaming that replaces nothing (RENAME_NOREPLACE)"),
        ("write('file', 'new')", "changing places of two files at once (RENAME_EXCHANGE)"),
        ("os.chmod('file', 0o600)", None),
    ],
)
def test_a_filesystem_without_the_flags_of_renaming(
    change: str, lacks: str | None, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> None:
        with fuse(top):
            recording = record(top, "write('file', 'old')", change)
            assert early(recording) is None  # nothing is written to find out before the review
            if lacks is None:
                assert apply(recording).error is None
                assert os.stat(top / "host/file").st_mode & 0o777 == 0o600
                return
            with unchanged(top / "host"):
                assert late(apply(recording)) == LACKS + lacks
            # Of some it is known.
            monkeypatch.setitem(exchange._LACKING, "fuse", exchange.known_to_lack("nfs"))
            assert early(recording) == LACKS + lacks

    in_a_namespace(work)


def test_it_is_refused_before_a_command_runs(top: Path) -> None:
    def work() -> None:
        with fuse(top):
            recording = record(top, "", "write('new', 'x')")
            (step,) = overlays.file_steps(recording)
            steps = [command("/bin/touch", str(top / "ran")), step]
            with applying(steps, ROOT, contents=[b"x"]) as applied:
                assert applied.finish().code == "not_permitted"
            assert not (top / "ran").exists()

    in_a_namespace(work)


@pytest.mark.parametrize("kind", ["ext4", "btrfs", "tmpfs"])
def test_filesystems_that_are_taken_for_able_are(kind: str, top: Path) -> None:
    def work() -> None:
        if kind == "tmpfs":
            kernel.mount("tmpfs", str(top / "host"), "tmpfs")
        else:
            mount_image(image(top, kind, 128), top / "host")
        assert exchange.is_certain(kind)
        directory = os.open(top / "host", os.O_RDONLY)
        assert exchange.found_to_lack(directory) == exchange.known_to_lack(kind) == frozenset()
        assert os.listdir(directory) in ([], ["lost+found"])

    in_a_namespace(work)


# What the system refuses on the way: all is put back


def failed(applied: Applied) -> dict[str, str]:
    assert applied.code == "apply_failed", applied
    assert applied.error is not None
    assert "done" not in applied.steps.values()
    details: dict[str, str] = applied.error["details"]
    return details


@pytest.mark.P4
def test_a_quota(top: Path) -> None:
    """That of a subvolume of btrfs, which holds for root too."""

    def work() -> None:
        mount_image(image(top, "btrfs", 128), top / "host")
        for words in (
            ["quota", "enable", top / "host"],
            ["subvolume", "create", top / "host/s"],
            ["qgroup", "limit", "2M", top / "host/s"],
        ):
            subprocess.run(["btrfs", *words], check=True, stdout=subprocess.DEVNULL)
        change = "os.unlink('s/gone')\nwrite('s/file', 'new')\nwrite('s/large', 'x' * (4 << 20))"
        recording = record(top, "write('s/gone', 'x')\nwrite('s/file', 'old')", change)
        with unchanged(top / "host"):
            details = failed(apply(recording))
        assert details["reason"] == "Disk quota exceeded"
        assert details["path"] == f"{top}/host/s/large"
        assert details["before"] in ("not applied", "undone")

    in_a_namespace(work)


@pytest.mark.P4
def test_files_are_deleted_from_a_full_filesystem(top: Path) -> None:
    """What is there to make room must not need any."""

    def work() -> None:
        mount_image(image(top, "ext4", 8, "-m", "0"), top / "host")
        layout = (
            "os.mkdir('d')\nwrite('d/large', 'x' * 100_000)\nos.mkdir('d/t')\nwrite('d/t/x', 'x')"
        )
        recording = record(top, layout, "os.unlink('d/large')\nshutil.rmtree('d/t')")
        fill(top / "host")
        applied = apply(recording)
        assert applied.error is None, applied
        assert sorted(os.listdir(top / "host/d")) == []
        assert [name for name in os.listdir(top / "host") if name.startswith(".shannot")] == []

    in_a_namespace(work)


def fill(directory: Path) -> None:
    """Use up every block of the filesystem, and every inode."""
    with (directory / "filler").open("wb") as file:
        size = 1 << 20
        while size:
            try:
                os.write(file.fileno(), b"x" * size)
            except OSError:
                size //= 2
    number = 0
    try:
        while True:
            (directory / f"filler-{number}").touch()
            number += 1
    except OSError:
        pass
    with pytest.raises(OSError, match="No space left"):
        (directory / "one-more").mkdir()


@pytest.mark.P4
def test_too_many_links(top: Path) -> None:
    """65000 of one file are the most on ext4; the sandbox's own layer has no such limit."""

    def work() -> None:
        mount_image(image(top, "ext4", 32), top / "host")
        layout = "write('file', 'x')\nwrite('other', 'old')"
        recording = record(top, layout, "write('other', 'new')\nos.link('file', 'twin')")
        (top / "host/links").mkdir()
        for number in range(64999):
            os.link(top / "host/file", top / f"host/links/{number}")
        applied = apply(recording)
        details = failed(applied)
        assert details["reason"].startswith("Too many links")
        assert details["before"] == "undone"
        assert (top / "host/other").read_text() == "old"
        assert sorted(os.listdir(top / "host")) == ["file", "links", "lost+found", "other"]

    in_a_namespace(work)


# What could be taken for an obstacle, and is none


@pytest.mark.P2
def test_the_longest_names(top: Path) -> None:
    """Names that wait for their turn are not made of those that they are for."""
    names = [letter * 255 for letter in "abcde"]
    layout = "".join(f"write({name!r}, 'old')\n" for name in names)
    change = (
        f"write({names[0]!r}, 'new')\nopen({names[1]!r}, 'a').write('more')\n"
        f"os.unlink({names[2]!r})\nos.rename({names[3]!r}, {'f' * 255!r})\n"
        f"os.chmod({names[4]!r}, 0o600)\nwrite({'g' * 255!r}, 'x')"
    )
    applied = apply(record(top, layout, change))
    assert applied.error is None
    left = {path.name[0]: path.read_text() for path in (top / "host").iterdir()}
    assert left == {"a": "new", "b": "oldmore", "f": "old", "e": "old", "g": "x"}


@pytest.mark.P2
@pytest.mark.parametrize("change", ["write('sleep', 'new')", "open('sleep', 'a').write('more')"])
def test_a_program_that_runs_is_replaced(change: str, top: Path) -> None:
    """Nothing is written into it: that would give ETXTBSY."""
    recording = record(top, "shutil.copy('/bin/sleep', 'sleep')", change)
    program = top / "host/sleep"
    with subprocess.Popen([program, "1000"]) as process:
        try:
            with pytest.raises(OSError, match="Text file busy"):
                program.open("ab")
            assert apply(recording).error is None
            assert process.poll() is None
            assert os.readlink(f"/proc/{process.pid}/exe").endswith(" (deleted)")
        finally:
            process.kill()
    assert program.read_bytes().endswith(b"new" if "write('sleep'" in change else b"more")


@pytest.mark.P2
def test_a_sticky_directory(ordinary: Identity) -> None:
    with overlays.workplace(ordinary) as top:
        recording = record(top, "os.mkdir('d')\nwrite('d/file', 'x')", "os.unlink('d/file')")
        (step,) = overlays.file_steps(recording)
        foreign = replace(recording, steps=(replace(step, before=replace(step.before, uid=0)),))
        os.chown(top / "host/d", 0, 0)
        os.chmod(top / "host/d", 0o1777)
        os.chown(top / "host/d/file", 0, ordinary.gid)
        with unchanged(top / "host"):
            reason = "its directory is sticky (chmod +t), and neither of the two is its own"
            assert early(foreign, ordinary) == reason
            assert late(apply(foreign, ordinary)) == reason


@pytest.mark.P4
@pytest.mark.parametrize("change", ["shutil.rmtree('d')", "os.rename('d', 'moved')"])
def test_a_host_that_is_an_overlay_itself(change: str, top: Path) -> None:
    """Without redirect_dir it moves no directory of its lower layers, as in most containers."""
    (top / "lower/d").mkdir(parents=True)
    (top / "lower/d/file").write_text("x")
    (top / "lower/other").write_text("old")

    def work() -> None:
        (top / "upper").mkdir()
        kernel.mount("tmpfs", str(top / "upper"), "tmpfs")
        for name in ("upper", "work"):
            (top / "upper" / name).mkdir()
        options = (
            f"lowerdir={top}/lower,upperdir={top}/upper/upper,workdir={top}/upper/work,"
            "redirect_dir=off"
        )
        kernel.mount("overlay", str(top / "host"), "overlay", 0, options)
        recording = record(top, "", f"write('other', 'new')\n{change}")
        assert early(recording) is None
        with unchanged(top / "host"):
            details = failed(apply(recording))
        assert details["reason"] == (
            "Invalid cross-device link, since a quota project or an overlay's lower layer keeps it"
            " where it is (renameat2)"
        )
        assert details["before"] in ("not applied", "undone")

    in_a_namespace(work)


@pytest.mark.parametrize("builder", ["privileged", "one-uid"])
def test_a_script_meets_a_read_only_filesystem_itself(
    builder: str, ordinary: Identity, packages: Path
) -> None:
    """As on the host, and so it can do without: no plan is made that would be refused."""
    account = None if builder == "privileged" else ordinary.name
    owner = ROOT if account is None else ordinary
    with overlays.workplace(owner) as top:
        (top / "host/d").mkdir()
        os.chown(top / "host/d", owner.uid, owner.gid)
        os.chown(top / "layers", owner.uid, owner.gid)

        def work() -> tuple[bytes, dict[str, str]]:
            kernel.unshare(kernel.CLONE_NEWNS)
            kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
            read_only(top / "host/d")
            with running_runner(top / "layers", account=account, code=packages) as runner:
                script = "touch d/new || echo x > instead"
                outcome = runner.run("shell", script, cwd=f"{top}/host", scratch=())
                assert outcome.error is None
                return outcome.stderr, outcome.changes()

        stderr, changes = overlays.in_child(work)
        assert b"Read-only file system" in stderr
        assert changes == {f"{top}/host/instead": "create"}
