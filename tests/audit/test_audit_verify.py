"""The verifier finds any flip, drop, reorder, truncation or replaced file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shannotd.audit.log import AuditLog
from shannotd.audit.verify import Line, encode_line, line_hash, parse_line, verify_directory
from shannotd.wire.errors import AuditBroken

pytestmark = pytest.mark.P6

# The fixtures below are read only; each example works on a copy of its own.
property_settings = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

Content = dict[str, bytes]


def fill(log: AuditLog, count: int) -> None:
    for number in range(count):
        log.append("event", uid=number, session=f"s{number}", details={"n": number, "t": "\u202e"})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Content:
    """A log of several files, with a line that was set aside, closed in good order."""
    directory = tmp_path_factory.mktemp("whole")
    log = AuditLog(directory, max_file_bytes=1200)
    fill(log, 8)
    log.close()
    with sorted(directory.glob("audit-*"))[-1].open("ab") as file:
        file.write(b'{"boot"')
    log = AuditLog(directory, max_file_bytes=1200)
    fill(log, 8)
    log.close()
    assert verify_directory(directory).records == 17
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def verify_content(content: Content, directory: Path) -> None:
    """Lay the files out and verify them."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for name, data in content.items():
        (directory / name).write_bytes(data)
    verify_directory(directory)


def log_names(content: Content) -> list[str]:
    return sorted(name for name in content if name.startswith("audit-"))


def evidence(content: Content) -> list[str]:
    return sorted(name for name in content if name != "lock")


def must_be_found(changed: Content, whole: Content, directory: Path) -> None:
    if changed == whole:
        return
    with pytest.raises(AuditBroken) as caught:
        verify_content(changed, directory)
    assert caught.value.details["file"]


def test_the_log_itself_is_whole(whole: Content, tmp_path: Path) -> None:
    assert len(log_names(whole)) >= 4
    verify_content(whole, tmp_path / "log")


@property_settings
@given(st.data())
def test_any_changed_byte_is_found(whole: Content, tmp_path: Path, data: st.DataObject) -> None:
    changed = dict(whole)
    name = data.draw(st.sampled_from(evidence(whole)))
    content = bytearray(whole[name])
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    changed[name] = bytes(content)
    must_be_found(changed, whole, tmp_path / "log")


@property_settings
@given(st.data())
def test_any_cut_or_added_part_is_found(
    whole: Content, tmp_path: Path, data: st.DataObject
) -> None:
    changed = dict(whole)
    name = data.draw(st.sampled_from(evidence(whole)))
    content = whole[name]
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(content))] * 2)))
    changed[name] = content[:start] + data.draw(st.binary(max_size=40)) + content[end:]
    must_be_found(changed, whole, tmp_path / "log")


@property_settings
@given(st.data())
def test_any_cut_at_the_end_is_found(whole: Content, tmp_path: Path, data: st.DataObject) -> None:
    """Of one file, also with all files after it."""
    names = log_names(whole)
    index = data.draw(st.integers(0, len(names) - 1))
    changed = dict(whole)
    changed[names[index]] = whole[names[index]][
        : data.draw(st.integers(0, len(whole[names[index]]) - 1))
    ]
    if data.draw(st.booleans()):
        for later in names[index + 1 :]:
            del changed[later]
        if not changed[names[index]] and data.draw(st.booleans()):
            del changed[names[index]]
    must_be_found(changed, whole, tmp_path / "log")


def joined(lines: list[bytes]) -> bytes:
    return b"".join(lines)


LINE_CHANGES: list[Callable[[list[bytes], int, int], list[bytes]]] = [
    lambda lines, one, _: lines[:one] + lines[one + 1 :],
    lambda lines, one, _: [*lines[: one + 1], *lines[one:]],
    lambda lines, one, other: [
        lines[other if at == one else one if at == other else at] for at in range(len(lines))
    ],
    lambda lines, one, other: [*lines[:one], lines[other], *lines[one:]],
    lambda lines, one, _: lines[:one] + lines[one:][::-1],
]


@property_settings
@given(st.sampled_from(LINE_CHANGES), st.data())
def test_any_dropped_doubled_or_moved_line_is_found(
    whole: Content,
    tmp_path: Path,
    change: Callable[[list[bytes], int, int], list[bytes]],
    data: st.DataObject,
) -> None:
    changed = dict(whole)
    name = data.draw(st.sampled_from(log_names(whole)))
    lines = whole[name].splitlines(keepends=True)
    places = st.integers(0, len(lines) - 1)
    changed[name] = joined(change(lines, data.draw(places), data.draw(places)))
    must_be_found(changed, whole, tmp_path / "log")


@property_settings
@given(st.data())
def test_any_removed_swapped_or_replaced_file_is_found(
    whole: Content, tmp_path: Path, data: st.DataObject
) -> None:
    changed = dict(whole)
    names = evidence(whole)
    one, other = data.draw(st.sampled_from(names)), data.draw(st.sampled_from(names))
    match data.draw(st.sampled_from(["remove", "swap", "copy", "rename"])):
        case "remove":
            del changed[one]
        case "swap":
            changed[one], changed[other] = whole[other], whole[one]
        case "copy":
            changed[one] = whole[other]
        case _:
            changed[f"audit-{data.draw(st.integers(0, 99)):06d}.jsonl"] = changed.pop(one)
    must_be_found(changed, whole, tmp_path / "log")


def forged(lines: list[bytes], at: int) -> list[bytes]:
    """The lines with another event in the one `at`, and all hashes after it made to fit."""
    result = lines[:at]
    for number, encoded in enumerate(lines[at:], start=at):
        line = parse_line(encoded)
        previous = line_hash(result[-1]) if result else line.previous
        event = "forged" if number == at else line.event
        result.append(encode_line(Line(**{**vars(line), "previous": previous, "event": event})))
    return result


@property_settings
@given(st.data())
def test_a_forged_tail_with_a_good_chain_is_found_by_the_head(
    whole: Content, tmp_path: Path, data: st.DataObject
) -> None:
    """Of one file, or of all that follow."""
    names = log_names(whole)
    first = data.draw(st.integers(0, len(names) - 1))
    last = data.draw(st.integers(first, len(names) - 1))
    per_file = [whole[name].splitlines() for name in names[first : last + 1]]
    flat = forged(
        [line for lines in per_file for line in lines],
        data.draw(st.integers(0, len(per_file[0]) - 1)),
    )
    changed = dict(whole)
    for name, lines in zip(names[first : last + 1], per_file, strict=True):
        changed[name] = b"".join(line + b"\n" for line in flat[: len(lines)])
        flat = flat[len(lines) :]
    must_be_found(changed, whole, tmp_path / "log")


@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory"])
@pytest.mark.parametrize("name", ["audit-000001.jsonl", "head", "torn"])
def test_what_is_no_regular_file_is_found(
    whole: Content, tmp_path: Path, kind: str, name: str
) -> None:
    directory = tmp_path / "log"
    verify_content(whole, directory)
    path = next(directory.glob(f"{name}*"))
    path.rename(tmp_path / "kept")
    match kind:
        case "symlink":
            path.symlink_to(tmp_path / "kept")
        case "fifo":
            os.mkfifo(path)
        case _:
            path.mkdir()
    with pytest.raises(AuditBroken, match="regular file"):
        verify_directory(directory)


def test_lines_after_the_head_are_accepted_if_they_chain(whole: Content, tmp_path: Path) -> None:
    changed = dict(whole)
    name = log_names(whole)[-1]
    last = whole[name].splitlines()[-1]
    line = parse_line(last)
    after = {**vars(line), "previous": line_hash(last), "sequence": line.sequence + 1}
    more = encode_line(Line(**after)) + b"\n"
    verify_content({**changed, name: whole[name] + more}, tmp_path / "good")
    must_be_found({**changed, name: whole[name] + more[:-1]}, whole, tmp_path / "unfinished")
    must_be_found({**changed, name: whole[name] + more + more}, whole, tmp_path / "twice")
    skipped = encode_line(Line(**{**after, "sequence": line.sequence + 2})) + b"\n"
    must_be_found({**changed, name: whole[name] + skipped}, whole, tmp_path / "skipped")


def test_the_writer_finds_what_files_alone_cannot_tell(tmp_path: Path) -> None:
    """A whole older log in the place of the newer one, and nothing in its place at all."""
    directory, older = tmp_path / "log", tmp_path / "older"
    log = AuditLog(directory)
    fill(log, 3)
    log.sync()
    shutil.copytree(directory, older)
    fill(log, 3)
    log.sync()
    assert log.verify().records == 6
    for path in directory.iterdir():
        path.unlink()
    with pytest.raises(AuditBroken):
        log.verify()
    shutil.copytree(older, directory, dirs_exist_ok=True)
    assert verify_directory(directory).records == 3
    with pytest.raises(AuditBroken, match="missing"):
        log.verify()
    log.close()


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"boot":1}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"sequence":1e999}',
        b'{"sequence":' + b"9" * 10_000 + b"}",
    ],
    ids=lambda line: repr(line[:20]),
)
def test_junk_is_no_record(line: bytes) -> None:
    with pytest.raises(ValueError):
        parse_line(line)


def test_another_spelling_of_a_record_is_not_the_record(whole: Content) -> None:
    line = whole[log_names(whole)[0]].splitlines()[0]
    value = json.loads(line)
    assert parse_line(line).sequence == 1
    for other in (
        json.dumps(value, sort_keys=True).encode(),
        json.dumps({**value, "extra": 1}, sort_keys=True, separators=(",", ":")).encode(),
        json.dumps(dict(reversed(value.items())), separators=(",", ":")).encode(),
        line.replace(b'"sequence":1', b'"sequence":1.0'),
        line.replace(b"\\u202e", b"\\u202E"),
    ):
        with pytest.raises(ValueError):
            parse_line(other)
