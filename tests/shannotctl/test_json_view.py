"""What `--json` prints fits its published schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from shannotctl.json_view import error_object, event_object, list_object, session_object
from shannotctl.protocol import Changed, CommandPrinted, Decided, Output, StepApplied
from shannotd.wire.amendment import Amendment, DroppedStep, EditedStep
from shannotd.wire.decision import Risk
from shannotd.wire.errors import NotFound
from shannotd.wire.plan import Plan, StartedProgram
from shannotd.wire.session import Failure, Session, State
from shannotd.wire.step import (
    CommandInput,
    CommandOutput,
    CommandResult,
    FileState,
    Step,
    TreeSummary,
)
from tests.support.samples import ABSENT, ID, bare, file_step, regular, session

SCHEMA = json.loads(
    (Path(__file__).parents[2] / "docs" / "session.schema.json").read_text(encoding="utf-8")
)

STEPS = (
    file_step("create", "/etc/new", before=ABSENT),
    file_step("modify", "/etc/x", after=regular("b", mode=0o4755, xattrs={"user.a": "ff"})),
    file_step("append", "/etc/log", appended=TreeSummary(0, 12, "c" * 64)),
    file_step(
        "delete",
        "/srv/old",
        before=FileState("directory", 0o755, 0, 0, tree=TreeSummary(3, 44, "d" * 64)),
        diff=None,
    ),
    file_step("rename", "/etc/b", old_path="/etc/a\udcff", diff=None),
    file_step("metadata", "/etc/m", diff=None),
    file_step("modify", "/etc/bin", diff=None, binary=True),
    file_step("modify", "/etc/large", diff=None, too_large=True, applied="done"),
    file_step("create", "/etc/link", after=FileState("symlink", target="/x"), diff=None),
    file_step("create", "/tmp/s", scratch=True),
    Step(
        "command",
        argv=("systemctl", "reload", "nginx"),
        program="/usr/bin/systemctl",
        program_sha256="e" * 64,
        cwd="/",
        environment={"LANG": "C\udcff", "PATH": "/usr/bin"},
        changed=("LANG",),
        decision="review",
        rule="services",
        exit_status=0,
        stdin=CommandInput("1" * 64, 4),
        assumed=True,
        seconds=300.0,
        output_bytes=4096,
        undo=("systemctl", "stop", "nginx"),
        risk=Risk.CAUTION,
        result=CommandResult(0, "", "", 0.2, truncated=("stdout",)),
    ),
    Step(
        "command",
        argv=("ps",),
        program="/usr/bin/ps",
        decision="observe",
        exit_status=1,
        stdout=CommandOutput("2" * 64, 9, truncated=True),
        stderr=CommandOutput("3" * 64, 0),
    ),
    Step(
        "command",
        argv=(),
        decision="deny",
        result=CommandResult(None, "", "", 0.2, signal=9, stopped="seconds"),
    ),
    Step("blocked", what="connect", target="192.0.2.1:80", count=3, risk=Risk.UNKNOWN),
)


def check(value: object) -> Any:
    printed = json.loads(json.dumps(value))
    jsonschema.validate(printed, SCHEMA)
    return printed


@pytest.mark.parametrize(
    "made",
    [
        session(*STEPS),
        session(stdout=b"2\n", stderr=b"\xff"),
        session(programs=(StartedProgram(("ls", "\udcff"), 2), StartedProgram((), 7, cut=True))),
        session(state=State.RUNNING, exit_code=None, duration=None),
        session(
            *STEPS[:1],
            state=State.FAILED,
            error=Failure("apply_failed", "it failed", {"step": 1, "path": "/x", "a": None}),
            decided_by=(0,),
            decided_at=2.0,
        ),
        session(exit_code=None, signal=9, state=State.FAILED),
        session(
            *STEPS,
            amends="f" * 32,
            editors=(1, 2),
            editor_name="alice",
            amendment=Amendment(
                (DroppedStep(0, "create /x\udcff", (1, 2)),),
                (EditedStep(0, 1), EditedStep(1, 2, 3)),
            ),
        ),
        session(*STEPS[:1], state=State.REJECTED, replaced_by="f" * 32),
    ],
)
def test_sessions_fit_the_schema(made: Session) -> None:
    check(session_object(made))
    check(list_object(bare(made)))


def test_the_schema_itself_is_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_every_step_is_there_in_order() -> None:
    steps = check(session_object(session(*STEPS)))["plan"]["steps"]
    assert [step["kind"] for step in steps] == [step.kind for step in STEPS]
    assert steps[1]["after"]["mode"] == 0o4755
    assert steps[4]["old_path"] == "/etc/a\udcff"
    assert steps[6]["binary"] is True and steps[6]["diff"] is None
    assert steps[10]["result"]["exit_status"] == 0
    assert steps[13]["count"] == 3


def test_commands_are_there_with_all_that_the_digest_covers() -> None:
    contents = {"1" * 64: b"in\xff\n"}
    steps = check(session_object(session(*STEPS), contents))["plan"]["steps"]
    reviewed, observed, denied = steps[10:13]
    assert reviewed["argv"] == ["systemctl", "reload", "nginx"]
    assert (reviewed["program"], reviewed["program_sha256"]) == ("/usr/bin/systemctl", "e" * 64)
    assert reviewed["environment"] == {"LANG": "C\udcff", "PATH": "/usr/bin"}
    assert (reviewed["changed"], reviewed["cwd"]) == (["LANG"], "/")
    assert (reviewed["decision"], reviewed["rule"]) == ("review", "services")
    assert (reviewed["exit_status"], reviewed["assumed"]) == (0, True)
    assert reviewed["stdin"] == {"sha256": "1" * 64, "size": 4, "text": "in\udcff\n"}
    assert reviewed["undo"] == ["systemctl", "stop", "nginx"]
    assert reviewed["result"]["truncated"] == ["stdout"]
    assert observed["stdout"] == {"sha256": "2" * 64, "size": 9, "truncated": True, "text": None}
    assert observed["stderr"]["text"] == ""
    assert denied["decision"] == "deny" and denied["result"]["signal"] == 9


@pytest.mark.P2
def test_the_digest_is_that_of_the_received_plan() -> None:
    made = session(*STEPS, digest="f" * 64)
    printed = check(session_object(made))
    assert made.plan_canonical is not None
    assert printed["digest"] == printed["plan"]["digest"] == Plan.parse(made.plan_canonical).digest


def test_bytes_that_are_not_utf8_can_be_had_back() -> None:
    printed = json.dumps(session_object(session(stdout=b"a\xff\n")))
    assert printed.isascii()
    assert json.loads(printed)["stdout"].encode("utf-8", "surrogateescape") == b"a\xff\n"


def test_lists_have_the_same_keys() -> None:
    made = session(*STEPS)
    assert list_object(bare(made)).keys() == session_object(made).keys()
    assert list_object(bare(made))["plan"] is None


def test_errors_and_events() -> None:
    assert error_object(NotFound(id="x")) == {
        "error": {"code": "not_found", "message": str(NotFound(id="x")), "details": {"id": "x"}}
    }
    assert event_object(Output(ID, "stdout", b"x"))["data"] == "x"
    assert event_object(StepApplied(ID, 2, "done"))["index"] == 2
    printed = event_object(CommandPrinted(ID, 2, "stderr", b"\xff"))
    assert (printed["event"], printed["index"], printed["data"]) == ("command_output", 2, "\udcff")
    decided = event_object(Decided(ID, "rm x", "deny", "rule", "why"))
    assert (decided["event"], decided["decision"], decided["rule"]) == ("command", "deny", "rule")
    assert event_object(Changed(bare(session())))["event"] == "changed"
