"""`policy.explain`: what policy says of a call, without running it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from shannotd.policy.profiles import builtin_profiles
from shannotd.server.explain import explain
from shannotd.wire.decision import Decision, Explanation
from shannotd.wire.decode import decode
from shannotd.wire.errors import InvalidRequest, ProfileUnknown
from tests.support.service import Caller, in_loop, running_service

DEFAULT = builtin_profiles()["default"]


@pytest.fixture
def tool(tmp_path: Path) -> Path:
    """A program with a second name."""
    program = tmp_path / "bin" / "tool"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (tmp_path / "bin" / "other").symlink_to("tool")
    (tmp_path / "bin" / "data").write_text("x")
    return program


def test_a_name_is_found_on_the_profiles_path(tool: Path) -> None:
    under = replace(DEFAULT, environment={"PATH": f"relative:/nowhere:{tool.parent}/"})
    found = explain(("other", "x"), "/", under)
    assert (found.call.path, found.call.program) == (str(tool.parent / "other"), str(tool))
    assert found.found and found.verdict.decision is Decision.REVIEW
    assert not explain(("data",), "/", under).found, "what cannot be executed is no program"


def test_a_path_is_taken_from_the_working_directory(tool: Path) -> None:
    found = explain(("./../bin/tool",), str(tool.parent), DEFAULT)
    assert found.found and found.call.path == str(tool)
    assert found.verdict.rule == "outside PATH"
    assert not explain(("./none",), str(tool.parent), DEFAULT).found


def test_what_the_host_does_not_have_is_judged_all_the_same() -> None:
    found = explain(("nonesuch-tool",), "/", DEFAULT)
    assert not found.found and found.verdict.rule == "unknown"


@pytest.mark.parametrize(
    ("account", "as_root"), [("root", True), ("0", True), ("bob", False), (None, os.geteuid() == 0)]
)
def test_the_profile_says_who_the_script_is(account: str | None, as_root: bool) -> None:
    assert explain(("id",), "/", replace(DEFAULT, run_as=account)).call.as_root is as_root


@pytest.mark.P10
@pytest.mark.parametrize(
    ("argv", "cwd"), [((), "/"), (("",), "/"), (("a\0",), "/"), (("ls",), "tmp"), (("ls",), "/\0")]
)
def test_what_can_be_no_call_is_refused(argv: tuple[str, ...], cwd: str) -> None:
    with pytest.raises(ValueError, match=r"argv|cwd"):
        explain(argv, cwd, DEFAULT)


@in_loop
async def test_over_the_wire(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        answer = await caller.call("policy.explain", argv=["rm", "-rf", "/etc"])
        found = decode(Explanation, answer)
        assert (found.profile, found.verdict.decision) == ("default", Decision.DENY)
        odd = await caller.call("policy.explain", argv=["ls", "\udcff"], cwd="/tmp")
        assert decode(Explanation, odd).call.argv == ("ls", "\udcff")
        failure = caller.failure
        assert isinstance(await failure("policy.explain", argv=[]), InvalidRequest)
        assert isinstance(await failure("policy.explain"), InvalidRequest)
        unknown = await failure("policy.explain", argv=["ls"], profile="none")
        assert isinstance(unknown, ProfileUnknown)
