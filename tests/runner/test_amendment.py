"""A reviewer's plan: what he changed, what follows from that, and nothing else (P2)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shannotd.runner.amendment import Amended, Changes, amend
from shannotd.runner.frames import RunnerError
from shannotd.runner.plan import (
    BlockedStep,
    FileState,
    FileStep,
    Identity,
    Interpreter,
    Plan,
    TreeSummary,
)
from shannotd.runner.world import OnHost, Pieces, Written
from tests.runner.test_dependents import (
    ACTS,
    DIRECTORY,
    FILE,
    HOST,
    OTHER,
    chmod,
    command,
    create,
    delete,
    modify,
    record,
    rename,
)
from tests.support.modelled import Act, Model, apply_all

pytestmark = pytest.mark.P2

NEW = Written("1" * 64, 7)
WHOLE = Written("2" * 64, 99)


def plan(*steps: object) -> Plan:
    return Plan("old", {}, Identity("me", 0, 0, (), 0o22), "1", "rollback", steps)


def whole(state: FileState, pieces: Pieces, appended: Written) -> Written:
    """A file of which nobody knows more than that it is another one."""
    return WHOLE


def amended(
    *steps: object, drop: Sequence[int] = (), with_dependents: bool = False, **edits: Written
) -> Amended:
    """What becomes of a plan; `edits` are called by index as `_2`."""
    wanted = {int(name[1:]): content for name, content in edits.items()}
    return amend(plan(*steps), Changes(frozenset(drop), wanted, with_dependents), whole)


def refused(*steps: object, **changes: Any) -> dict[str, Any]:
    """The details of the error with which it is refused, and its code."""
    with pytest.raises(RunnerError) as caught:
        amended(*steps, **changes)
    return {"code": caught.value.code, **caught.value.details}


def with_content(state: FileState, content: Written) -> FileState:
    return replace(state, sha256=content.sha256, size=content.size)


def appending(path: str, before: FileState = FILE, after: FileState = OTHER) -> FileStep:
    return FileStep("append", path, before, after, appended=TreeSummary(1, 2, "a" * 64))


def test_the_rest_of_a_plan_stays_as_it_is() -> None:
    steps = [create("/a"), command("x"), create("/b"), BlockedStep("connect", "x", 1)]
    found = amended(*steps, drop=[0])
    assert found.steps == tuple(steps[1:])
    assert (found.origins, found.dropped) == ((1, 2, 3), (0,))
    assert (found.edited, found.renewed, found.missed) == ((), {}, ())


def test_another_content_changes_the_state_and_nothing_else() -> None:
    before = replace(FILE, mode=0o4750, uid=5, gid=6, xattrs={"user.a": "00"})
    after = replace(before, sha256="e" * 64, size=5, mtime_ns=17)
    steps = [create("/a", after), modify("/b", before, after), create("/c")]
    found = amended(*steps, _0=NEW, _1=NEW)
    assert found.steps == (
        create("/a", with_content(after, NEW)),
        modify("/b", before, with_content(after, NEW)),
        create("/c"),
    )
    assert found.edited == (0, 1)
    assert found.renewed[0].before == () and found.renewed[0].after == (NEW,)
    assert found.renewed[1].before == (OnHost("/b"),)


def test_of_an_append_the_added_part_is_edited() -> None:
    asked: list[Any] = []

    def measure(state: FileState, pieces: Pieces, appended: Written) -> Written:
        asked.append((state, pieces, appended))
        return WHOLE

    wanted = Changes(frozenset(), {0: NEW})
    found = amend(plan(appending("/log")), wanted, measure)
    (step,) = found.steps
    assert isinstance(step, FileStep)
    assert step.change == "append" and step.before == FILE
    assert step.appended == TreeSummary(1, NEW.size, NEW.sha256)
    assert step.after == with_content(OTHER, WHOLE)
    assert asked == [(FILE, (OnHost("/log"),), NEW)]


def test_what_comes_after_begins_from_the_other_content() -> None:
    steps = [
        create("/a"),
        command("/a"),
        chmod("/a", FILE, 0o600),
        command("/a"),
        rename("/a", "/b", replace(FILE, mode=0o600)),
        create("/c", replace(FILE, mode=0o600), link_to="/b"),
        command("/b"),
        appending("/b", replace(FILE, mode=0o600), replace(OTHER, mode=0o600)),
        delete("/c", replace(FILE, mode=0o600)),
        command("/b"),
        delete("/b", replace(OTHER, mode=0o600)),
    ]
    found = amended(*steps, _0=NEW)
    files = {index: step for index, step in enumerate(found.steps) if isinstance(step, FileStep)}
    first = with_content(FILE, NEW)
    private = replace(first, mode=0o600)
    assert files[0].after == first
    assert (files[2].before, files[2].after) == (first, private)
    assert (files[4].before, files[4].after) == (private, private)
    assert files[5].after == private
    longer = with_content(private, WHOLE)
    assert (files[7].before, files[7].after) == (private, longer)
    assert files[7].appended == TreeSummary(1, 2, "a" * 64)
    assert (files[8].before, files[10].before) == (private, longer)
    assert set(found.renewed) == set(files)
    assert found.renewed[10].before == (NEW, Written("a" * 64, 2))
    assert (found.edited, found.replaced) == ((0,), {})


@pytest.mark.P7
def test_a_step_that_writes_the_edited_file_anew_is_told_of() -> None:
    steps = [create("/a"), command("/a"), modify("/a", FILE, OTHER), command("/a"), create("/b")]
    found = amended(*steps, _0=NEW)
    assert found.replaced == {0: 2}
    assert found.steps[2] == modify("/a", with_content(FILE, NEW), OTHER)
    assert set(found.renewed) == {0, 2}
    both = amended(*steps, _0=NEW, _2=WHOLE)
    assert both.replaced == {0: 2}
    assert both.steps[2] == modify("/a", with_content(FILE, NEW), with_content(OTHER, WHOLE))


def test_what_needs_a_dropped_step_must_go_too() -> None:
    steps = [create("/d", DIRECTORY), create("/d/f"), create("/x"), command("/d/f"), create("/d/g")]
    error = refused(*steps, drop=[0])
    assert (error["code"], error["steps"]) == ("step_needed", "steps 2, 5")
    assert error["reason"] == "without step 1, step 2 does not find /d as it must"
    found = amended(*steps, drop=[0], with_dependents=True)
    assert found.steps == (create("/x"), command("/d/f"))
    assert found.dropped == (0, 1, 4)
    assert [(one.index, one.dropped) for one in found.missed] == [(1, 1)]
    assert amended(*steps, drop=[0, 1, 4]).steps == found.steps


def test_an_observation_names_the_command_that_stays() -> None:
    def observed(after: int | None) -> object:
        return replace(command("df"), decision="observe", called_after=after)

    calls = [observed(None), observed(1), observed(3), observed(3)]
    steps = [create("/a"), command("x"), create("/b"), command("y"), *calls]
    assert amended(*steps, drop=[0]).steps[3:] == (
        observed(None),
        observed(0),
        observed(2),
        observed(2),
    )
    assert amended(*steps, drop=[3]).steps[3:] == (
        observed(None),
        observed(1),
        observed(1),
        observed(1),
    )
    assert amended(*steps, drop=[1, 3]).steps[2:] == (observed(None),) * 4


@pytest.mark.P10
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"drop": [9]}, "there is no step 10"),
        ({"drop": [-1]}, "there is no step 0"),
        ({"_9": NEW}, "there is no step 10"),
        ({}, "nothing would be another"),
        ({"_0": Written("f" * 64, 3)}, "nothing would be another"),
        ({"drop": [6]}, "tells of the dry run"),
        ({"drop": [7]}, "tells of the dry run"),
        ({"drop": [8]}, "tells of the dry run"),
        ({"_1": NEW}, "step 2 writes no file"),
        ({"_2": NEW}, "one more name"),
        ({"_3": NEW}, "makes no file but a directory"),
        ({"_4": NEW}, "step 5 writes no file"),
        ({"_5": Written("0" * 64, 0)}, "would append nothing"),
        ({"_8": NEW}, "scratch"),
        ({"drop": [0], "_0": NEW}, "dropped and edited"),
        ({"drop": [0], "_9": NEW}, "there is no step 10"),
        ({"drop": [1, 2, 3, 4, 5], "_0": NEW, "with_dependents": True}, None),
        ({"drop": [0, 1, 2, 3, 4, 5]}, "nothing would be left"),
    ],
)
def test_what_cannot_be_changed_is_refused(changes: dict[str, Any], reason: str | None) -> None:
    steps = [
        create("/a"),
        command("x"),
        create("/b", link_to="/z"),
        create("/c", DIRECTORY),
        delete("/d"),
        appending("/e"),
        replace(command("df"), decision="observe"),
        BlockedStep("mount", "/", 1),
        replace(create("/tmp/x"), scratch=True),
    ]
    if reason is None:
        assert len(amended(*steps, **changes).steps) == 4
        return
    error = refused(*steps, **changes)
    assert error["code"] == "not_amendable" and error["id"] == "old"
    assert reason in error["reason"]


def test_a_tree_that_goes_as_it_was_keeps_what_is_in_it() -> None:
    tree = replace(DIRECTORY, tree=TreeSummary(1, 3, "d" * 64))
    steps = [create("/x"), modify("/d/f"), delete("/d", tree)]
    error = refused(*steps, _1=NEW)
    assert error["code"] == "not_amendable" and "step 2 cannot be edited" in error["reason"]
    assert amended(*steps, _0=NEW).edited == (0,)


def test_an_edited_step_that_cannot_stay_is_refused() -> None:
    steps = [create("/d", DIRECTORY), create("/d/f"), create("/x")]
    error = refused(*steps, drop=[0], with_dependents=True, _1=NEW)
    assert error["code"] == "not_amendable" and "step 2 is edited" in error["reason"]


# Random plans over a model.


@settings(max_examples=300, deadline=None)
@given(
    st.lists(ACTS, min_size=1, max_size=12),
    st.sets(st.integers(0, 11), max_size=2),
    st.dictionaries(st.integers(0, 11), st.sampled_from([b"A", b"BB"]), max_size=3),
)
def test_it_does_what_the_script_would_do_that_writes_this(
    acts: list[Any], drop: set[int], edits: dict[int, bytes]
) -> None:
    recorded, contents = record(acts)
    host = Model.host(*HOST)
    steps = [act.step for act in recorded]
    for content in (b"A", b"BB"):
        contents[hashlib.sha256(content).hexdigest()] = content

    def measure(state: FileState, pieces: Pieces, appended: Written) -> Written:
        parts = [contents_of(host, piece, contents) for piece in (*pieces, appended)]
        assert sum(map(len, parts[:-1])) == state.size
        data = b"".join(parts)
        return Written(hashlib.sha256(data).hexdigest(), len(data))

    def of(index: int) -> Written:
        content = edits[index]
        return Written(hashlib.sha256(content).hexdigest(), len(content))

    wanted = {i: of(i) for i in edits if i < len(steps) and i not in drop and is_written(steps[i])}
    dropped = frozenset(index for index in drop if index < len(steps))
    try:
        found = amend(plan(*steps), Changes(dropped, wanted, True), measure)
    except RunnerError as error:
        assert error.code == "not_amendable"
        return
    new = []
    for origin, step in zip(found.origins, found.steps, strict=True):
        assert isinstance(step, FileStep)
        new.append(Act(step, recorded[origin].parents))
    result = apply_all(host, new, contents)
    again = again_with(host, recorded, found, {i: edits[i] for i in wanted}, contents)
    assert result.nodes == again.nodes


def is_written(step: FileStep) -> bool:
    made = step.change in ("create", "modify", "append") and step.link_to is None
    return made and step.after.type == "file"


def contents_of(host: Model, piece: object, contents: dict[str, bytes]) -> bytes:
    if isinstance(piece, OnHost):
        content = host.nodes[piece.path].content
        assert content is not None
        return content
    assert isinstance(piece, Written)
    return contents[piece.sha256]


def again_with(
    host: Model,
    recorded: list[Act],
    found: Amended,
    edits: dict[int, bytes],
    contents: dict[str, bytes],
) -> Model:
    """What the same calls would make of the host with these contents, and without some of them."""
    model = host.copy()
    for origin in found.origins:
        step = recorded[origin].step
        if step.change == "rename":
            model.rename(step.old_path or "", step.path)
        elif step.change == "delete":
            model.remove(step.path)
        elif step.change == "metadata":
            model.chmod(step.path, step.after.mode or 0)
        elif step.link_to is not None:
            model.link(step.link_to, step.path)
        elif step.after.type == "directory":
            model.make(step.path)
        elif step.appended is not None:
            model.append(step.path, edits.get(origin, contents[step.appended.sha256]))
        else:
            model.write(step.path, edits.get(origin, contents[step.after.sha256 or ""]))
    return model


def test_a_script_is_run_by_what_an_edited_step_leaves() -> None:
    one, other = Interpreter("/srv/run", OTHER.sha256 or ""), Interpreter("/bin/sh", "5" * 64)
    script = command("a", interpreters=(one, other))
    found = amended(modify("/srv/run"), script, modify("/srv/x"), _0=NEW)
    changed = found.steps[1]
    assert changed == replace(script, interpreters=(replace(one, sha256=NEW.sha256), other))
    assert amended(modify("/srv/run"), script, modify("/srv/x"), _2=NEW).steps[1] == script
    assert refused(modify("/srv/run"), script, create("/x"), drop=[0])["code"] == "step_needed"
