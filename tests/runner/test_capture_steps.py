"""Capture: which steps a plan has, in which order, with which states."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shannotd.runner import kernel
from shannotd.runner.capture import Layer, Recorded, capture
from shannotd.runner.frames import RunnerError
from shannotd.runner.plan import BlockedStep, FileStep, Identity
from shannotd.runner.scratch import matcher
from tests.runner import overlays
from tests.runner.overlays import Recording
from tests.scenarios import PRELUDE, Scenario, change_script, layout_script
from tests.support.accounts import is_root

pytestmark = pytest.mark.skipif(not is_root(), reason="makes mounts and accounts")
ROOT = overlays.who("root")


def record(top: Path, layout: str, change: str, **more: object) -> Recording:
    scenario = Scenario(layout, change)
    overlays.run_script(layout_script(scenario), f"{top}/host")
    return overlays.dry_run(top, change_script(scenario), ROOT, builder="privileged", **more)  # type: ignore[arg-type]


def told(recording: Recording, top: Path) -> list[str]:
    """The steps in short: change, path, for renames the old one."""
    base = f"{top}/host/"
    found = []
    for step in recording.steps:
        if isinstance(step, BlockedStep):
            found.append(f"{step.what} {step.target.removeprefix(base)}")
            continue
        words = [step.change, step.path.removeprefix(base)]
        if step.old_path is not None:
            words.append("from " + step.old_path.removeprefix(base))
        if step.link_to is not None:
            words.append("as " + step.link_to.removeprefix(base))
        found.append(" ".join(words))
    return found


TREE = "make('full_directory', 'tree', 'before')"


def test_reading_changes_nothing(top: Path) -> None:
    change = "open('tree/same').read()\nos.chmod('tree/same', 0o600)\nos.chmod('tree/same', 0o644)"
    assert told(record(top, TREE, change), top) == []


def test_an_append_holds_what_was_added(top: Path) -> None:
    recording = record(top, "write('log', '1\\n2\\n3\\n4\\n')", "open('log', 'a').write('5\\n')")
    (step,) = overlays.file_steps(recording)
    assert step.change == "append"
    assert step.appended is not None
    assert (step.appended.entries, step.appended.size) == (1, 2)
    assert recording.contents == {step.appended.sha256: b"5\n"}
    assert step.after.sha256 == hashlib.sha256(b"1\n2\n3\n4\n5\n").hexdigest()
    diff = recording.notes[0].diff
    assert diff is not None
    assert diff.split("\n")[2:] == ["@@ -2,3 +2,4 @@", " 2", " 3", " 4", "+5", ""]


def test_files_too_large_to_hash_are_compared_byte_by_byte(top: Path) -> None:
    """Such a file has a fingerprint only, which a copy of it cannot have."""
    layout = "for name in 'abc':\n    write(name, 'x')\n    os.truncate(name, 257 << 20)"
    change = (
        "os.chmod('a', 0o600)\n"
        "with open('b', 'r+b') as file:\n    file.seek(256 << 20)\n    file.write(b'y')\n"
        "with open('c', 'ab') as file:\n    file.write(b'y')"
    )
    limits = {"steps": 100, "written_bytes": 1 << 30}
    recording = record(top, layout, change, limits=limits)
    assert told(recording, top) == ["metadata a", "modify b", "append c"]


def test_a_large_append_needs_no_copy_in_the_plan(top: Path) -> None:
    layout = "with open('log', 'w') as file:\n    file.write('line\\n' * 1_000_000)"
    recording = record(top, layout, "open('log', 'a').write('last\\n')")
    (step,) = overlays.file_steps(recording)
    assert step.change == "append"
    assert sum(map(len, recording.contents.values())) == 5
    diff = recording.notes[0].diff
    assert diff is not None
    assert "@@ -999998,3 +999998,4 @@" in diff


def test_a_deleted_tree_is_one_step(top: Path) -> None:
    recording = record(top, TREE, "shutil.rmtree('tree')")
    (step,) = overlays.file_steps(recording)
    assert (step.change, step.before.type) == ("delete", "directory")
    assert step.before.tree is not None
    assert step.before.tree.entries == 9
    assert step.before.tree.size == 40


def test_a_renamed_directory_is_one_step(top: Path) -> None:
    recording = record(top, TREE, "os.rename('tree', 'moved')\nwrite('moved/other', 'new')")
    assert told(recording, top) == ["rename moved from tree", "modify moved/other"]
    step = overlays.file_steps(recording)[0]
    assert step.before.tree is not None
    assert step.after == replace(step.before, tree=None)


def test_a_renamed_file_is_one_step_without_content(top: Path) -> None:
    recording = record(top, "write('one', 'content')", "os.rename('one', 'two')")
    assert told(recording, top) == ["rename two from one"]
    assert recording.contents == {}


def test_a_copy_is_no_rename(top: Path) -> None:
    change = "write('two', 'content')\nos.unlink('one')"
    recording = record(top, "write('one', 'content')", change)
    assert told(recording, top) == ["create two", "delete one"]


def test_renames_that_wait_for_each_other(top: Path) -> None:
    layout = "for name in 'ab':\n    os.mkdir(name)\n    write(name + '/' + name, name)"
    change = "os.rename('a', 't')\nos.rename('b', 'a')\nos.rename('t', 'b')"
    assert sorted(told(record(top, layout, change), top)) == [
        "rename .shannot-moved-1 from a",
        "rename .shannot-moved-2 from b",
        "rename a from .shannot-moved-2",
        "rename b from .shannot-moved-1",
    ]


@pytest.mark.P2
def test_an_opaque_directory_lists_what_is_gone(top: Path) -> None:
    change = "shutil.rmtree('tree')\nos.mkdir('tree')\nwrite('tree/same', 'the same\\n')"
    assert told(record(top, TREE, change), top) == [
        "metadata tree/same",  # only its time
        "delete tree/kind-before",
        "delete tree/link",
        "delete tree/only-before",
        "delete tree/other",
        "delete tree/sub",
    ]


def test_a_type_change_is_one_step_and_what_is_inside(top: Path) -> None:
    change = "shutil.rmtree('tree')\nwrite('tree', 'x')\nos.mkdir('d')\nwrite('d/f', 'x')"
    recording = record(top, TREE, change)
    assert told(recording, top) == ["modify tree", "create d", "create d/f"]
    step = overlays.file_steps(recording)[0]
    assert (step.before.type, step.after.type) == ("directory", "file")
    assert step.before.tree is not None


def test_hard_links(top: Path) -> None:
    layout = "write('a', 'x')\nos.link('a', 'b')\nwrite('c', 'y')"
    change = "write('a', 'changed')\nos.link('c', 'd')\nwrite('f', 'new')\nos.link('f', 'e')"
    recording = record(top, layout, change)
    assert told(recording, top) == ["modify a", "create e", "create d as c", "create f as e"]
    assert overlays.file_steps(recording)[0].before.links == 2


def test_what_no_plan_can_make_is_reported(top: Path) -> None:
    change = (
        "import socket\nos.mkfifo('fifo')\nos.mkfifo('file')\n"
        "socket.socket(socket.AF_UNIX).bind('socket')\nos.mknod('device', 0o600 | 0o020000, 259)"
    )
    recording = record(top, "write('x', '')", change.replace("os.mkfifo('file')", ""))
    assert told(recording, top) == ["device device", "fifo fifo", "socket socket"]


def test_times_are_recorded_where_they_were_set(top: Path) -> None:
    change = (
        "write('now', 'x')\nwrite('then', 'x')\nos.utime('then', (5, 5))\n"
        "write('later', 'x')\nos.utime('later', (4 * 10**9, 4 * 10**9))\nos.utime('tree/same')"
    )
    recording = record(top, TREE, change)
    times = {
        os.path.basename(step.path): (step.change, step.after.mtime_ns)
        for step in overlays.file_steps(recording)
    }
    assert times["now"] == ("create", None)
    assert times["then"] == ("create", 5 * 10**9)
    assert times["later"] == ("create", 4 * 10**18)
    kind, touched = times["same"]
    assert kind == "metadata"
    assert touched is not None
    assert abs(touched - time.time_ns()) < 60 * 10**9


def test_binary_and_large_files_are_marked(top: Path) -> None:
    change = "open('b', 'wb').write(b'\\0' * 9)\nwrite('large', 'line\\n' * 500_000)"
    recording = record(top, "", change)
    notes = dict(zip(told(recording, top), recording.notes, strict=True))
    assert notes["create b"].binary
    assert notes["create large"].too_large
    assert all(note.diff is None for note in recording.notes)


def test_scratch_comes_last_and_has_no_content(top: Path) -> None:
    change = (
        "os.mkdir('a-cache')\nwrite('a-cache/one', '1')\nwrite('b', '2')\n"
        "os.mkdir('c')\nos.makedirs('c/__pycache__')\nwrite('c/__pycache__/x', '3')"
    )
    patterns = [f"{top}/host/*-cache/**", "**/__pycache__"]
    recording = record(top, "", change, scratch=patterns)
    steps = overlays.file_steps(recording)
    assert [step.scratch for step in steps] == sorted(step.scratch for step in steps)
    shown = zip(told(recording, top), steps, strict=True)
    assert [text for text, step in shown if not step.scratch] == [
        "create b",
        "create a-cache",
        "create c",
    ]
    assert list(recording.contents.values()) == [b"2"]


def test_exceptions_of_scratch_are_applied(top: Path) -> None:
    """With the directories in which they are; what is beside them is not."""
    change = (
        "os.makedirs('cache/kept/in')\nwrite('cache/kept/in/one', '1')\nwrite('cache/two', '2')\n"
        "os.mkdir('cache/kept/__pycache__')\nwrite('cache/kept/__pycache__/x', '3')"
    )
    patterns = [f"{top}/host/cache", "**/__pycache__", f"!{top}/host/cache/kept/in", "!/x"]
    recording = record(top, "", change, scratch=patterns)
    steps = overlays.file_steps(recording)
    shown = zip(told(recording, top), steps, strict=True)
    assert [text for text, step in shown if not step.scratch] == [
        "create cache",
        "create cache/kept",
        "create cache/kept/in",
        "create cache/kept/in/one",
    ]
    assert list(recording.contents.values()) == [b"1"]


@pytest.mark.parametrize(
    ("patterns", "scratch"),
    [
        (["/tmp/**", "!/tmp/a"], ["/tmp/b", "/tmp/ab"]),
        (["/tmp/**", "/run/**", "!**/a"], ["/tmp/b", "/tmp/ab", "/run/a"]),
        (["/tmp/**", "/run/**", "!/**"], ["/run/a"]),
        (["!/tmp/**"], []),
    ],
)
def test_what_is_an_exception_of_scratch(patterns: list[str], scratch: list[str]) -> None:
    """But of /run a script sees nothing of the host's."""
    is_scratch = matcher(patterns)
    paths = ["/tmp/a", "/tmp/a/x", "/tmp/b", "/tmp/ab", "/run/a", "/etc/a"]
    assert [path for path in paths if is_scratch(path)] == scratch


def test_what_is_moved_out_of_scratch_is_applied(top: Path) -> None:
    recording = record(top, TREE, "os.rename('tree', 'kept')", scratch=[f"{top}/host/tree"])
    assert [step.scratch for step in overlays.file_steps(recording)] == [False]


def test_too_many_steps_are_refused(top: Path) -> None:
    change = "for number in range(20):\n    write(str(number), 'x')"
    with pytest.raises(RunnerError) as raised:
        record(top, "", change, limits={"steps": 10, "written_bytes": 1000})
    assert raised.value.code == "limit_exceeded"
    assert raised.value.details == {"name": "steps", "limit": 10}


@pytest.mark.P10
def test_an_endless_hole_is_refused_and_not_read(top: Path) -> None:
    change = "open('hole', 'w').close()\nos.truncate('hole', 2**42)"
    with pytest.raises(RunnerError) as raised:
        record(top, "", change)
    assert raised.value.details["name"] == "written_bytes"


def test_what_the_identity_cannot_read_is_not_shown(ordinary: Identity) -> None:
    with overlays.workplace(ordinary) as top:
        secret = top / "host/secret"
        secret.write_text("a secret of root")
        secret.chmod(0o600)
        script = PRELUDE + "os.unlink('secret')"
        recording = overlays.dry_run(top, script, ordinary, builder="privileged")
        (step,) = overlays.file_steps(recording)
        assert step.before.sha256 is None
        assert step.before.fingerprint is not None
        assert recording.notes[0].diff is None
        # It could not be given back: so it is not taken away either.
        applied = overlays.apply_plan(overlays.plan_of(recording, ordinary), recording.contents)
        assert applied.code == "checkpoint_failed"
        assert applied.error is not None
        assert f"{secret} cannot be read" in applied.error["details"]["reason"]
        assert secret.read_text() == "a secret of root"


@pytest.mark.P2
def test_what_changes_on_the_host_meanwhile_is_not_overwritten(top: Path) -> None:
    (top / "host/log").write_text("one\n")
    made = layer(top, "upper", top / "host")
    started = time.time_ns()
    (top / "layers/upper/log").write_text("one\nby the script\n")
    with open(top / "host/log", "a") as file:
        file.write("by another\n")
    os.utime(top / "host/log", ns=(started + 10**9, started + 10**9))
    with pytest.raises(RunnerError) as raised:
        capture(
            [made], started_ns=started - 10**9, scratch=[], identity=ROOT, limits=overlays.LIMITS
        )
    assert raised.value.code == "capture_failed"


# Layers by hand: what mounts beside each other leave.


def captured(layers: list[Layer]) -> Recorded:
    return capture(
        layers, started_ns=time.time_ns(), scratch=[], identity=ROOT, limits=overlays.LIMITS
    )


def layer(top: Path, name: str, mountpoint: Path, **more: object) -> Layer:
    upper = top / "layers" / name
    upper.mkdir(exist_ok=True)
    descriptor = os.open(upper, os.O_RDONLY | os.O_DIRECTORY)
    return Layer(str(mountpoint), descriptor, "trusted.overlay.", **more)  # type: ignore[arg-type]


def test_another_layers_mountpoint_is_left_to_it(top: Path) -> None:
    inner = top / "host/inner"
    inner.mkdir()
    (inner / "file").write_text("x")
    outer_layer, inner_layer = layer(top, "outer", top / "host"), layer(top, "inner", inner)
    placeholder = top / "layers/outer/inner"
    placeholder.mkdir(mode=0o700)
    os.setxattr(placeholder, "trusted.overlay.opaque", b"y")
    (top / "layers/inner/new").write_text("y")
    recorded = captured([inner_layer, outer_layer])
    assert [step.path for step in recorded.steps if isinstance(step, FileStep)] == [f"{inner}/new"]


def test_an_opaque_parent_keeps_the_mount_in_it(top: Path) -> None:
    inner = top / "host/parent/inner"
    inner.mkdir(parents=True)
    layers = [layer(top, "outer", top / "host"), layer(top, "inner", inner)]
    parent = top / "layers/outer/parent"
    parent.mkdir()
    os.setxattr(parent, "trusted.overlay.opaque", b"y")
    assert captured(layers).steps == ()


def test_the_root_of_a_layer_is_the_builders(top: Path) -> None:
    os.chmod(top / "host", 0o700)
    os.chown(top / "host", 1, 1)
    made = layer(top, "upper", top / "host", root_mode=0o555)
    os.chmod(top / "layers/upper", 0o555)
    assert captured([made]).steps == ()
    os.chmod(top / "layers/upper", 0o750)
    (step,) = captured([made]).steps
    assert isinstance(step, FileStep)
    assert (step.change, step.path) == ("metadata", f"{top}/host")
    assert (step.before.mode, step.after.mode, step.after.uid) == (0o700, 0o750, 1)


@pytest.mark.P8
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("opaque", b"x"),
        ("redirect", b"../etc"),
        ("redirect", b"/no/such"),
        ("redirect", b"a/b"),
        ("redirect", b""),
    ],
)
def test_marks_that_are_not_understood_fail_the_capture(top: Path, name: str, value: bytes) -> None:
    made = layer(top, "upper", top / "host")
    (top / "layers/upper/d").mkdir()
    os.setxattr(top / "layers/upper/d", f"trusted.overlay.{name}", value)
    with pytest.raises(RunnerError) as raised:
        captured([made])
    assert raised.value.code == "capture_failed"


@pytest.mark.P8
def test_metacopy_fails_the_capture(top: Path) -> None:
    made = layer(top, "upper", top / "host")
    (top / "layers/upper/f").write_text("")
    os.setxattr(top / "layers/upper/f", "trusted.overlay.metacopy", b"")
    with pytest.raises(RunnerError) as raised:
        captured([made])
    assert "metacopy" in str(raised.value.details["reason"])


@pytest.mark.P8
def test_a_mount_without_a_layer(top: Path) -> None:
    (top / "host/mounted").mkdir()
    made = layer(top, "upper", top / "host")
    upper = top / "layers/upper/mounted"
    upper.mkdir(mode=0o711)

    def work() -> tuple[int, str]:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount("tmpfs", str(top / "host/mounted"), "tmpfs", 0, None)
        count = len(captured([made]).steps)
        (upper / "hidden").write_text("x")
        with pytest.raises(RunnerError) as raised:
            captured([made])
        return count, raised.value.code

    assert overlays.in_child(work) == (0, "capture_failed")


# Anything at all, on both kinds of overlay.

NAMES = st.sampled_from(["a", "b", "tree", "tree/same", "tree/sub", "tree/sub/x", "b/c", "b/c/d"])
OPERATIONS = st.one_of(
    st.tuples(st.just("write"), NAMES, st.sampled_from(["", "x", "the same\n", "y\n" * 9])),
    st.tuples(st.just("append"), NAMES, st.just("more\n")),
    st.tuples(st.just("os.mkdir"), NAMES),
    st.tuples(st.just("clear"), NAMES),
    st.tuples(st.just("move"), NAMES, NAMES),
    st.tuples(st.just("move"), NAMES, NAMES),
    st.tuples(st.just("os.symlink"), NAMES, NAMES),
    st.tuples(st.just("os.link"), NAMES, NAMES),
    st.tuples(st.just("os.chmod"), NAMES, st.sampled_from([0o700, 0o755, 0o644])),
    st.tuples(st.just("os.rmdir"), NAMES),
    st.tuples(st.just("make"), st.sampled_from(["full_directory", "recreated"]), NAMES, NAMES),
)


def anything(operations: list[tuple[object, ...]], builder: str, who: Identity) -> None:
    lines = [
        "def append(path, text):",
        "    with open(path, 'a') as file:",
        "        file.write(text)",
    ]
    for name, *arguments in operations:
        lines += ["try:", f"    {name}({', '.join(map(repr, arguments))})"]
        lines += ["except OSError as error:", "    if error.errno == errno.EXDEV: raise"]
    scenario = Scenario(
        TREE + "\nos.mkdir('b')\nmake('full_directory', 'b/c', 'z')", "\n".join(lines)
    )
    with overlays.workplace(who) as top:
        for name in ("host", "copy"):
            overlays.run_script(layout_script(scenario), f"{top}/{name}", who)
        script = change_script(scenario)
        recording = overlays.dry_run(top, script, who, builder=builder)
        overlays.run_script(script, f"{top}/copy", who)
        applied = overlays.apply_plan(overlays.plan_of(recording, who), recording.contents)
        assert applied.error is None
        wanted, found = overlays.snapshot(top / "copy"), overlays.snapshot(top / "host")
        for snapshot in (wanted, found):
            for state in snapshot.values():
                # A copied file, as in moving between overlays, has no second name.
                state.pop("twins", None)
        assert found == wanted


SLOW = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]


@pytest.mark.P2
@given(st.lists(OPERATIONS, min_size=1, max_size=12))
@settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
def test_anything_at_all(operations: list[tuple[object, ...]]) -> None:
    anything(operations, "privileged", ROOT)


@pytest.mark.P2
@given(st.lists(OPERATIONS, min_size=1, max_size=12))
@settings(max_examples=40, deadline=None, suppress_health_check=SLOW)
def test_anything_at_all_by_an_ordinary_account(
    ordinary: Identity, operations: list[tuple[object, ...]]
) -> None:
    anything(operations, "one-uid", ordinary)


@pytest.mark.P2
@pytest.mark.long
@pytest.mark.timeout(3600)
@given(st.lists(OPERATIONS, min_size=5, max_size=40))
@settings(max_examples=2000, deadline=None, suppress_health_check=SLOW)
def test_anything_at_all_for_long(operations: list[tuple[object, ...]]) -> None:
    anything(operations, "privileged", ROOT)


def test_a_special_file_of_the_hosts_may_get_another_mode(top: Path) -> None:
    recording = record(top, "os.mkfifo('fifo', 0o600)", "os.chmod('fifo', 0o640)")
    assert told(recording, top) == ["metadata fifo"]
    (step,) = overlays.file_steps(recording)
    assert (step.before.type, step.before.mode, step.after.mode) == ("fifo", 0o600, 0o640)


def test_the_directory_of_a_mount_changes_like_any_other(top: Path) -> None:
    change = "os.setxattr('.', 'user.x', b'1')\nos.chmod('.', 0o750)"
    (step,) = overlays.file_steps(record(top, "os.setxattr('.', 'user.y', b'2')", change))
    assert (step.change, step.path) == ("metadata", f"{top}/host")
    assert step.before.xattrs == {"user.y": "32"}
    assert step.after.xattrs == {"user.x": "31", "user.y": "32"}
    assert step.after.mode == 0o750


@pytest.mark.P7
def test_what_is_too_large_to_show_is_marked(top: Path) -> None:
    layout = "write('text', 'x\\n')\nwrite('bytes', '\\0')\nwrite('empty', '')"
    change = (
        "open('text', 'a').write('line\\n' * 500_000)\n"
        "open('bytes', 'ab').write(bytes(2_500_000))\n"
        "os.unlink('empty')"
    )
    recording = record(top, layout, change)
    shown = {
        os.path.basename(step.path): (step.change, note.diff, note.binary, note.too_large)
        for step, note in zip(recording.steps, recording.notes, strict=True)
    }
    assert shown == {
        "text": ("append", None, False, True),
        "bytes": ("append", None, True, True),
        "empty": ("delete", None, False, False),
    }
