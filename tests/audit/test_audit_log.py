"""The writer: every record chained, whole or not there, after every kind of end."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shannotd.audit.log import AuditLog
from shannotd.audit.verify import GENESIS_HASH, Line, encode_line, line_hash, verify_directory
from shannotd.wire.errors import AuditBroken, ConfigError, StoreFull

pytestmark = pytest.mark.P6


def fill(log: AuditLog, count: int) -> None:
    for number in range(count):
        log.append(
            "session.submitted",
            uid=1000,
            session=f"s{number % 3}",
            details={"number": number, "name": "caf\u00e9 \u202e \udcff \x1b[2J", "ok": True},
        )


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()


def test_a_line_is_canonical_ascii_and_names_the_one_before(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit")
    first = log.append("session.submitted", uid=1000, session="abc", details={"b": 1, "a": None})
    second = log.append("daemon.stopped", uid=None, session=None, details={"name": "\u202e\x1b"})
    log.close()
    lines = lines_of(tmp_path / "audit" / "audit-000001.jsonl")
    assert [line.decode("ascii") for line in lines] == [first.line, second.line]
    value = json.loads(lines[0])
    assert list(value) == sorted(value)
    assert value["previous"] == GENESIS_HASH
    assert value["boot"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert json.loads(lines[1])["previous"] == hashlib.sha256(lines[0]).hexdigest() == first.hash
    assert (first.sequence, second.sequence) == (1, 2)
    assert first.details == {"a": None, "b": 1}


def test_files_are_the_owners_alone(tmp_path: Path) -> None:
    with_log = tmp_path / "audit"
    AuditLog(with_log).close()
    assert with_log.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in with_log.iterdir()} == {0o600}


def test_an_empty_log_verifies(tmp_path: Path) -> None:
    verdict = verify_directory(tmp_path)
    assert (verdict.records, verdict.head, verdict.first_time) == (0, GENESIS_HASH, None)
    AuditLog(tmp_path).close()
    assert verify_directory(tmp_path).records == 0


def test_reopening_continues_the_chain(tmp_path: Path) -> None:
    for _ in range(3):
        log = AuditLog(tmp_path)
        fill(log, 5)
        log.close()
        log.close()
    verdict = verify_directory(tmp_path)
    assert (verdict.records, verdict.files) == (15, 1)


def test_files_rotate_by_size_and_link_to_each_other(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, max_file_bytes=2000)
    fill(log, 40)
    assert log.verify().records == 40
    log.close()
    files = sorted(tmp_path.glob("audit-*.jsonl"))
    assert len(files) == log_file_count(tmp_path) > 5
    assert all(path.stat().st_size <= 2000 for path in files)
    for before, after in itertools.pairwise(files):
        last = lines_of(before)[-1]
        assert json.loads(lines_of(after)[0])["previous"] == line_hash(last)


def log_file_count(directory: Path) -> int:
    return verify_directory(directory).files


def test_files_rotate_by_day(tmp_path: Path) -> None:
    moments = [
        datetime(2025, 3, 1, 23, 59, 59, tzinfo=UTC),
        datetime(2025, 3, 1, 23, 59, 59, tzinfo=UTC),
        datetime(2025, 3, 2, 0, 0, 1, tzinfo=UTC),
        datetime(2025, 3, 2, 12, tzinfo=UTC),
    ]
    times = iter(moment.timestamp() for moment in moments)
    log = AuditLog(tmp_path, clock=lambda: next(times))
    fill(log, 3)
    log.close()
    log = AuditLog(tmp_path, clock=lambda: next(times))
    fill(log, 1)
    log.close()
    assert [len(lines_of(path)) for path in sorted(tmp_path.glob("audit-*"))] == [2, 2]


def test_a_record_larger_than_a_file_has_one_for_itself(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, max_file_bytes=1000)
    fill(log, 1)
    log.append("long", uid=0, session=None, details={"text": "x" * 5000})
    fill(log, 1)
    assert (log.verify().records, log.verify().files) == (3, 3)
    log.close()


def test_what_cannot_be_recorded_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    fill(log, 1)
    with pytest.raises(ValueError, match="bytes"):
        log.append("long", uid=0, session=None, details={"text": "x" * (1024 * 1024)})
    with pytest.raises(ValueError):
        log.append("number", uid=0, session=None, details={"value": float("nan")})
    fill(log, 1)
    assert log.verify().records == 2
    log.close()


def test_tail_gives_the_last_records_of_one_session_or_all(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, max_file_bytes=1500)
    fill(log, 20)
    log.append("other", uid=0, session=None, details={"session": "s1"})
    assert [record.sequence for record in log.tail(3)] == [19, 20, 21]
    assert [record.sequence for record in log.tail(100)] == list(range(1, 22))
    assert [record.sequence for record in log.tail(3, "s1")] == [14, 17, 20]
    assert log.tail(3, "nobody") == ()
    assert log.tail(0) == ()
    newest = log.tail(1)[0]
    assert newest.hash == line_hash(newest.line.encode("ascii"))
    log.close()


def test_there_is_one_writer_at_a_time(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    with pytest.raises(ConfigError, match="another process writes"):
        AuditLog(tmp_path)
    log.close()
    AuditLog(tmp_path).close()


def test_nothing_stays_open(tmp_path: Path) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    log = AuditLog(tmp_path, max_file_bytes=500)
    fill(log, 10)
    with pytest.raises(ConfigError):
        AuditLog(tmp_path)
    log.close()
    (tmp_path / "head").unlink()
    with pytest.raises(AuditBroken):
        AuditLog(tmp_path)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_records_from_many_threads_form_one_chain(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, max_file_bytes=5000)

    def work() -> None:
        for _ in range(5):
            fill(log, 10)
            log.sync()
            log.verify()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.verify().records == 200
    log.close()
    assert verify_directory(tmp_path).records == 200


CHILD = """
import resource, sys
from pathlib import Path
from shannotd.audit.log import AuditLog
log = AuditLog(Path(sys.argv[1]))
"""


def run_child(directory: Path, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CHILD + code, str(directory)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.P10
def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    """The size limit of the process writes a part, then nothing: as a full disk does."""
    result = run_child(
        tmp_path,
        """
from shannotd.wire.errors import StoreFull
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
written = refused = 0
for number in range(30):
    try:
        log.append("event", uid=0, session=None, details={"number": number})
        written += 1
    except StoreFull as error:
        refused += 1
assert log.verify().records == written and 0 < written < 30 and refused == 30 - written
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.append("event", uid=0, session=None, details={})
assert log.verify().records == written + 1
log.close()
print(written + 1)
""",
    )
    assert result.returncode == 0, result.stderr
    assert verify_directory(tmp_path).records == int(result.stdout)


def test_what_was_appended_survives_a_killed_daemon(tmp_path: Path) -> None:
    """The head then names an earlier record; what follows it counts."""
    result = run_child(
        tmp_path,
        """
import os, signal
log.append("one", uid=0, session=None, details={})
log.sync()
for _ in range(10):
    log.append("more", uid=0, session=None, details={})
os.kill(os.getpid(), signal.SIGKILL)
""",
    )
    assert result.returncode == -signal.SIGKILL
    assert verify_directory(tmp_path).records == 11
    log = AuditLog(tmp_path)
    fill(log, 1)
    log.close()
    assert verify_directory(tmp_path).records == 12


@pytest.mark.P4
def test_killed_at_any_moment_the_log_is_whole(tmp_path: Path) -> None:
    """Killed after so many lines of its output: in the middle of appends, syncs, rotations."""
    code = CHILD.replace("(Path(sys.argv[1]))", "(Path(sys.argv[1]), max_file_bytes=3000)")
    code += """
while True:
    record = log.append("event", uid=0, session="s", details={"text": "x" * 200})
    if record.sequence % 3 == 0:
        log.sync()
    print(record.sequence, flush=True)
"""
    acknowledged = 0
    for lines in (1, 2, 5, 17, 40):
        with subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            for _ in range(lines):
                acknowledged = int(child.stdout.readline())
            child.kill()
        records = AuditLog(tmp_path)
        assert records.verify().records >= acknowledged
        records.close()


def torn_files(directory: Path) -> list[Path]:
    return sorted(directory.glob("torn-*"))


def test_an_unfinished_line_is_set_aside_and_recorded(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    fill(log, 3)
    log.close()
    path = tmp_path / "audit-000001.jsonl"
    with path.open("ab") as file:
        file.write(b'{"boot":"unfin')
    with pytest.raises(AuditBroken, match="unfinished"):
        verify_directory(tmp_path)
    log = AuditLog(tmp_path)
    record = log.tail(1)[0]
    assert (record.sequence, record.event) == (4, "audit.torn")
    assert record.details["bytes"] == 14
    assert [torn.read_bytes() for torn in torn_files(tmp_path)] == [b'{"boot":"unfin']
    assert log.verify().records == 4
    log.close()
    torn_files(tmp_path)[0].write_bytes(b'{"boot":"unfim')
    with pytest.raises(AuditBroken, match="set aside"):
        verify_directory(tmp_path)
    torn_files(tmp_path)[0].unlink()
    with pytest.raises(AuditBroken, match="missing"):
        verify_directory(tmp_path)


def test_setting_aside_is_finished_after_a_crash_in_between(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    fill(log, 3)
    log.close()
    # The copy was made and the log cut, but the record was never written.
    (tmp_path / "torn-000000000004").write_bytes(b'{"boot":"unfin')
    assert verify_directory(tmp_path).records == 3
    log = AuditLog(tmp_path)
    assert log.tail(1)[0].event == "audit.torn"
    log.close()
    assert verify_directory(tmp_path).records == 4


def test_a_file_that_no_record_set_aside_is_found(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    fill(log, 3)
    log.close()
    (tmp_path / "torn-000000000002").write_bytes(b"x")
    with pytest.raises(AuditBroken, match="no record says"):
        verify_directory(tmp_path)


def append_as_of_another_boot(path: Path, count: int) -> None:
    """More good lines at the end of `path`, as if the machine had been booted since."""
    last = lines_of(path)[-1]
    with path.open("ab") as file:
        for _ in range(count):
            line = encode_line(
                Line(
                    boot="00000000-0000-0000-0000-000000000000",
                    details={},
                    event="event",
                    previous=line_hash(last),
                    sequence=json.loads(last)["sequence"] + 1,
                    session=None,
                    time=1.5,
                    uid=0,
                )
            )
            file.write(line + b"\n")
            last = line


@pytest.mark.P4
def test_what_power_loss_left_unwritten_is_set_aside(tmp_path: Path) -> None:
    """Blocks of the last file that never came to the disk read as zeros."""
    log = AuditLog(tmp_path)
    fill(log, 2)
    log.close()
    path = tmp_path / "audit-000001.jsonl"
    append_as_of_another_boot(path, 3)
    whole = path.read_bytes()
    lost = len(whole) - len(lines_of(path)[-1]) // 2
    path.write_bytes(whole[: lost - 200] + bytes(200) + whole[lost:])
    log = AuditLog(tmp_path)
    record = log.tail(1)[0]
    assert record.event == "audit.torn"
    assert log.verify().records == record.sequence == 4
    log.close()


def test_a_bad_line_of_this_boot_is_no_power_loss(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    fill(log, 2)
    log.close()
    path = tmp_path / "audit-000001.jsonl"
    with path.open("ab") as file:
        file.write(b"{}\n")
    before = path.read_bytes()
    with pytest.raises(AuditBroken) as caught:
        AuditLog(tmp_path)
    assert caught.value.details["line"] == 3
    assert path.read_bytes() == before


@pytest.mark.P8
@pytest.mark.parametrize("damage", ["head", "cut", "flip", "rename"])
def test_a_log_that_does_not_fit_its_head_is_not_continued(tmp_path: Path, damage: str) -> None:
    log = AuditLog(tmp_path, max_file_bytes=1000)
    fill(log, 12)
    log.close()
    last = sorted(tmp_path.glob("audit-*"))[-1]
    content = last.read_bytes()
    match damage:
        case "head":
            (tmp_path / "head").unlink()
        case "cut":
            last.write_bytes(content[: content.rfind(b"\n", 0, -1) + 1])
        case "flip":
            last.write_bytes(content.replace(b"session.submitted", b"session.submitteD"))
        case _:
            last.rename(tmp_path / "audit-000099.jsonl")
    with pytest.raises(AuditBroken):
        AuditLog(tmp_path)


def test_a_directory_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        AuditLog(tmp_path / "file" / "audit")
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit" / "head.new").mkdir()
    with pytest.raises(StoreFull, match="audit log"):
        AuditLog(tmp_path / "audit")
