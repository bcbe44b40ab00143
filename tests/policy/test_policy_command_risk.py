"""What a plan tells of its commands: what they will meet is said, and raises the risk."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shannotd.policy.risk import assess_plan, counts, plan_risk
from shannotd.wire.decision import Risk
from shannotd.wire.plan import Identity, Plan, StepCounts, Target
from shannotd.wire.step import FileState, Interpreter, Step
from shannotd.wire.text import has_hidden

pytestmark = pytest.mark.P7

ABSENT = FileState("absent")
FILE = FileState("file", mode=0o644, uid=0, gid=0, size=3, sha256="a" * 64)
PROGRAM = replace(FILE, mode=0o755)
DIRECTORY = FileState("directory", mode=0o755, uid=0, gid=0)

RELOAD = Step(
    "command",
    argv=("systemctl", "reload", "nginx"),
    program="/usr/bin/systemctl",
    cwd="/etc",
    decision="review",
    exit_status=0,
    risk=Risk.CAUTION,
    reason="changes what services do",
)


def plan_of(*steps: Step) -> Plan:
    identity = Identity("root", 0, 0, (), 0o022)
    return Plan(1, "s", Target("local", "h"), identity, "v", "rollback", tuple(steps))


def last(*steps: Step) -> tuple[Risk, str]:
    return assess_plan(plan_of(*steps))[-1]


def changed(path: str, after: FileState = FILE, before: FileState = FILE) -> Step:
    return Step("file", change="modify", path=path, before=before, after=after)


@pytest.mark.parametrize("decision", ["review", "observe"])
@pytest.mark.parametrize("risk", list(Risk))
def test_policys_word_stands_where_nothing_else_is_to_be_said(decision: str, risk: Risk) -> None:
    step = replace(RELOAD, decision=decision, risk=risk)
    assert last(changed("/srv/x"), step) == (risk, "changes what services do")


def test_a_denied_command_is_said_to_be_no_part_of_the_plan() -> None:
    risk, reason = last(replace(RELOAD, decision="deny", risk=Risk.DANGER))
    assert risk is Risk.DANGER
    assert reason == (
        "changes what services do; was denied in the dry run; it is not part of what is applied"
    )


@pytest.mark.parametrize(
    "before",
    [
        changed("/usr/bin/systemctl"),
        Step("file", change="metadata", path="/usr/bin/systemctl", before=FILE, after=PROGRAM),
        Step("file", change="create", path="/usr/bin/systemctl", before=ABSENT, after=PROGRAM),
        Step("file", change="rename", path="/usr/bin/systemctl", old_path="/srv/mine"),
        Step("file", change="rename", path="/usr/old", old_path="/usr/bin"),
        Step("file", change="delete", path="/usr/bin", before=DIRECTORY, after=ABSENT),
    ],
    ids=lambda step: f"{step.change}-{step.path}",
)
def test_a_program_that_the_plan_itself_changes_is_danger(before: Step) -> None:
    risk, reason = last(changed("/srv/x"), before, RELOAD)
    assert risk is Risk.DANGER
    assert "step 2 of this plan changes the program itself" in reason
    assert reason.startswith("changes what services do; ")


@pytest.mark.parametrize(
    "before",
    [
        changed("/usr/bin/systemctl-other"),
        changed("/srv/systemctl"),
        Step("file", change="metadata", path="/usr/bin", before=DIRECTORY, after=DIRECTORY),
        Step("file", change="create", path="/usr/bin/new", before=ABSENT, after=FILE),
    ],
    ids=lambda step: f"{step.change}-{step.path}",
)
def test_other_changes_beside_the_program_say_nothing_of_it(before: Step) -> None:
    assert last(before, RELOAD) == (Risk.CAUTION, "changes what services do")


PERL = Interpreter("/usr/bin/perl", "0" * 64)
SCRIPT = replace(RELOAD, interpreters=(Interpreter("/usr/bin/env", "0" * 64), PERL))


@pytest.mark.parametrize(
    "before",
    [
        changed("/usr/bin/perl"),
        Step("file", change="delete", path="/usr/bin/perl", before=FILE, after=ABSENT),
        Step("file", change="rename", path="/usr/old", old_path="/usr/bin"),
    ],
    ids=lambda step: f"{step.change}-{step.path}",
)
def test_an_interpreter_that_the_plan_itself_changes_is_danger(before: Step) -> None:
    risk, reason = last(changed("/srv/x"), before, SCRIPT)
    assert risk is Risk.DANGER
    assert "step 2 of this plan changes /usr/bin/perl, which runs it" in reason
    assert last(changed("/usr/bin/python3"), SCRIPT)[0] is Risk.CAUTION


LIBRARY = "/usr/lib/x86_64-linux-gnu/libcap.so.2"
LINKED = replace(
    RELOAD,
    loaded=("/lib64/ld-linux-x86-64.so.2", LIBRARY, f"{LIBRARY}.66", "libother.so.1"),
)


@pytest.mark.parametrize(
    ("before", "path"),
    [
        (changed(LIBRARY), LIBRARY),
        (changed(f"{LIBRARY}.66"), None),
        (changed("/usr/lib64/ld-linux-x86-64.so.2"), None),
        (changed("/usr/local/lib/libother.so.1", before=ABSENT), None),
        (changed("/opt/lib/libcap.so.2", before=ABSENT), None),
        (Step("file", change="rename", path="/srv/lib", old_path="/usr/lib"), LIBRARY),
    ],
    ids=lambda one: getattr(one, "path", ""),
)
def test_what_a_program_loads_and_the_plan_changes_is_danger(
    before: Step, path: str | None
) -> None:
    """Or makes anew, under a name that a loader may look for."""
    risk, reason = last(before, LINKED)
    assert risk is Risk.DANGER
    assert f"step 1 of this plan changes {path or before.path}, which it loads" in reason


def test_what_else_is_in_those_directories_says_nothing_of_it() -> None:
    for path in (f"{LIBRARY}.1", "/usr/lib/libc.a", "/srv/libcap", "/usr/lib/ld-linux.so.1"):
        assert last(changed(path), LINKED)[0] is Risk.CAUTION, path
    gone = Step("file", change="delete", path="/opt/libcap.so.2", before=FILE, after=ABSENT)
    assert last(gone, LINKED)[0] is Risk.CAUTION
    many = [changed(LIBRARY), changed(f"{LIBRARY}.66")]
    assert last(*many, LINKED)[1].endswith(f"changes {LIBRARY}, which it loads, and 1 more")


def test_a_change_after_the_command_does_not_concern_it() -> None:
    assert assess_plan(plan_of(RELOAD, changed("/usr/bin/systemctl")))[0][0] is Risk.CAUTION


def test_what_has_merged_directories_is_one_program() -> None:
    step = replace(RELOAD, program="/bin/systemctl")
    assert "changes the program" in last(changed("/usr/bin/systemctl"), step)[1]


@pytest.mark.parametrize(
    "word", ["/srv/run.sh", "--exec=/srv/run.sh", "../srv/run.sh", "-x=run.sh"]
)
def test_a_changed_program_among_the_arguments_is_danger(word: str) -> None:
    cwd = "/srv" if word.endswith("=run.sh") else "/etc"
    step = replace(RELOAD, argv=("sudo", word), program="/usr/bin/sudo", cwd=cwd)
    risk, reason = last(changed("/srv/run.sh", PROGRAM), step)
    assert risk is Risk.DANGER
    assert "is given /srv/run.sh, a program that step 1 of this plan changes" in reason


def test_a_changed_file_that_is_no_program_is_what_commands_are_for() -> None:
    step = replace(RELOAD, argv=("psql", "-f", "/srv/a.sql"))
    assert last(changed("/srv/a.sql"), step)[0] is Risk.CAUTION


def test_scratch_among_the_arguments_is_not_there_when_the_command_runs() -> None:
    step = replace(RELOAD, argv=("psql", "-f", "/tmp/a.sql"), risk=Risk.SAFE)
    risk, reason = last(replace(changed("/tmp/a.sql"), scratch=True), step)
    assert risk is Risk.CAUTION
    assert "is given /tmp/a.sql, which is scratch (step 1) and not applied" in reason


@pytest.mark.parametrize(
    "name",
    [
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "PATH",
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "BASH_ENV",
        "DBUS_SYSTEM_BUS_ADDRESS",
        "DBUS_SESSION_BUS_ADDRESS",
        "SYSTEMD_EDITOR",
        "EDITOR",
        "MANPAGER",
        "SYSTEMD_PAGER",
        "SSH_ASKPASS",
        "RSYNC_RSH",
        "TAR_OPTIONS",
        "XDG_CONFIG_HOME",
        "PSQLRC",
    ],
)
def test_variables_that_choose_code_are_danger(name: str) -> None:
    step = replace(RELOAD, environment={name: "/srv", "A": "1"}, changed=("A", name))
    risk, reason = last(step)
    assert risk is Risk.DANGER
    assert f"sets what decides which code programs run ({name})" in reason


@pytest.mark.parametrize("name", ["LANG", "OLD_PATHS", "MY_LD_PRELOAD", "HOME"])
def test_other_variables_are_not(name: str) -> None:
    assert last(replace(RELOAD, changed=(name,)))[0] is Risk.CAUTION


@pytest.mark.parametrize("cwd", ["/tmp", "/tmp/x/y", "/var/tmp", "/dev/shm", "/root/.cache/x"])
def test_a_working_directory_in_scratch_is_danger(cwd: str) -> None:
    risk, reason = last(replace(RELOAD, cwd=cwd))
    assert risk is Risk.DANGER
    assert "runs in a scratch directory" in reason


@pytest.mark.parametrize("cwd", ["/", "/etc", "/srv/tmp", "/tmpx", None])
def test_other_working_directories_are_not(cwd: str | None) -> None:
    assert last(replace(RELOAD, cwd=cwd))[0] is Risk.CAUTION


def test_what_does_not_run_at_apply_gets_no_such_mark() -> None:
    for decision in ("observe", "deny"):
        step = replace(
            RELOAD, decision=decision, cwd="/tmp", changed=("LD_PRELOAD",), risk=Risk.SAFE
        )
        assert last(changed("/usr/bin/systemctl"), step)[0] is Risk.SAFE


def test_all_that_follows_an_assumed_step_says_so() -> None:
    scratch = replace(changed("/tmp/x"), scratch=True)
    blocked = Step("blocked", what="connect", target="192.0.2.1:80")
    steps = (
        changed("/srv/a"),
        replace(RELOAD, assumed=True, risk=Risk.SAFE),
        changed("/srv/b"),
        replace(RELOAD, assumed=True),
        scratch,
        replace(RELOAD, decision="observe"),
        blocked,
    )
    findings = assess_plan(plan_of(*steps))
    marked = [number for number, (_, why) in enumerate(findings, 1) if "after step 2" in why]
    assert marked == [3, 4], "what is applied after it, and nothing else"
    assert findings[1][0] is Risk.CAUTION
    assert "assumed: the script may have read its output" in findings[1][1]


def test_commands_are_counted_by_what_becomes_of_them() -> None:
    steps = [
        RELOAD,
        replace(RELOAD, decision="observe"),
        replace(RELOAD, decision="observe"),
        replace(RELOAD, decision="deny"),
        replace(RELOAD, decision="of next year"),
    ]
    assert counts(plan_of(*steps)) == StepCounts(command=2, observed=2, denied=1)


def test_the_risk_of_a_plan_is_that_of_its_commands_too() -> None:
    plan = plan_of(changed("/srv/x"), replace(RELOAD, risk=Risk.UNKNOWN))
    assert plan_risk(assess_plan(plan)) is Risk.UNKNOWN


WORDS = st.text(st.characters(), max_size=12) | st.sampled_from(["/srv/x", "a=/srv/x", "/tmp/s"])
COMMANDS = st.builds(
    Step,
    kind=st.just("command"),
    argv=st.lists(WORDS, max_size=4).map(tuple),
    program=st.none() | WORDS,
    cwd=st.none() | WORDS,
    changed=st.lists(WORDS, max_size=3).map(tuple),
    decision=st.sampled_from(["review", "observe", "deny", "?", None]),
    assumed=st.booleans(),
    risk=st.sampled_from(Risk),
    reason=st.sampled_from(["", "why"]),
)
FILES = st.builds(
    Step,
    kind=st.just("file"),
    change=st.sampled_from(["create", "modify", "delete", "rename", "metadata"]),
    path=WORDS,
    old_path=st.none() | WORDS,
    after=st.sampled_from([FILE, PROGRAM, ABSENT]),
    scratch=st.booleans(),
)


@given(st.lists(COMMANDS | FILES, max_size=12))
def test_whatever_is_said_only_raises_the_risk_and_hides_nothing(steps: list[Step]) -> None:
    findings = assess_plan(plan_of(*steps))
    assert len(findings) == len(steps)
    for step, (risk, reason) in zip(steps, findings, strict=True):
        assert reason
        assert not has_hidden(reason)
        if step.kind == "command":
            assert risk.rank >= step.risk.rank
            assert reason.startswith(step.reason)
