"""What is kept of a session's commands is bounded, however many there are (P10)."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, cast

import pytest

from shannotd.runner.frames import RunnerError
from shannotd.runner.identity import Floor, resolve
from shannotd.runner.plan import CommandStep
from shannotd.runner.record import KEPT_BYTES, WORD_BYTES, Kept, Record
from shannotd.runner.warm import Settings

STEP = CommandStep(
    decision="deny",
    program="/bin/x",
    program_sha256="",
    argv=("x",),
    cwd="/",
    environment={},
    changed=(),
    exit_status=126,
    rule="",
    reason="",
    risk="danger",
)

pytestmark = pytest.mark.P10


@pytest.fixture
def record() -> Record:
    """A record of a session whose sandbox is never looked at."""
    settings = Settings("privileged", b"", "/nonexistent", ())
    return Record({}, resolve(None, Floor())[0], cast(Any, None), 0, settings)


def test_words_are_bounded_in_all(record: Record) -> None:
    word = "x" * (WORD_BYTES // 4)
    for number in range(3):
        record.add(replace(STEP, argv=(str(number), word)))
    with pytest.raises(RunnerError) as caught:
        record.add(replace(STEP, argv=("4", word), environment={"A": word}))
    assert caught.value.details["name"] == "word_bytes"


def test_the_same_denied_again_is_told_once(record: Record) -> None:
    word = "x" * (WORD_BYTES // 2)
    for _ in range(9):
        record.add(replace(STEP, argv=(word,)))


def test_inputs_are_bounded_in_all_and_outputs_cut(record: Record) -> None:
    part = KEPT_BYTES // 4
    first = record.keep_output(b"a" * part, False)
    second = record.keep_output(b"b" * part + b"more", False)
    third = record.keep_output(b"c", False)
    assert first is not None and not first.truncated
    assert second is not None and second.truncated and second.size == part
    assert third is not None and third.truncated and third.size == 0
    assert record.keep_output(b"", False) is None
    record.keep(b"d" * part)
    record.keep(b"d" * part)
    with pytest.raises(RunnerError) as caught:
        record.keep(b"e" * (2 * part))
    assert caught.value.details["name"] == "input_bytes"


def test_a_kept_content_can_be_read_twice() -> None:
    content = Kept(b"content")
    descriptor = content.open()
    try:
        assert os.read(descriptor, 99) == content.read() == b"content"
    finally:
        os.close(descriptor)
