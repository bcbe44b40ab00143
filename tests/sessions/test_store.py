"""The store: sessions and contents, on disk when it says so, also when the disk is full."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from shannotd.sessions.database import PAGE_BYTES
from shannotd.sessions.records import Entry, Record
from shannotd.sessions.schema import MIGRATIONS
from shannotd.sessions.store import Store
from shannotd.wire.errors import ConfigError, StoreFull
from shannotd.wire.session import Session, State
from tests.support.service import in_loop


def record(number: int, state: State = State.PENDING, **changes: object) -> Record:
    """A session's record."""
    session = Session(
        id=f"{number:032x}",
        name=f"name {number}",
        state=state,
        profile="default",
        target="local",
        submitter=1000 + number % 2,
        submitter_name="tester",
        identity="tester",
        created_at=1e9 + number,
        expires_at=2e9,
    )
    return Record(replace(session, **changes), seal="seal", identity_uid=7)  # type: ignore[arg-type]


@in_loop
async def test_what_is_committed_together_is_there_as_a_whole_or_not_at_all(
    tmp_path: Path,
) -> None:
    store = await Store.open(tmp_path)
    try:
        await store.commit(Entry(record(1)))
        wrong = Entry(record(3), {"plan": object()})  # type: ignore[dict-item]
        with pytest.raises(StoreFull):
            await store.commit(Entry(record(1, State.REJECTED)), Entry(record(2)), wrong)
        for number, state in ((1, State.PENDING), (2, None), (3, None)):
            stored = await store.load(f"{number:032x}")
            assert (None if stored is None else stored.record.session.state) == state
        await store.commit(Entry(record(1, State.REJECTED)), Entry(record(2)))
        assert [each.session.id for each in await store.unfinished()] == [f"{2:032x}"]
    finally:
        await store.close()


@in_loop
async def test_contents_are_shared_and_those_of_no_session_are_forgotten(tmp_path: Path) -> None:
    store = await Store.open(tmp_path)
    data = b"content"
    name = hashlib.sha256(data).hexdigest()
    first, second, never = (record(number).session.id for number in (1, 2, 3))
    await store.keep_small(first, [(name, len(data))], data)
    await store.share(first, second)
    await store.share(first, never)
    await store.commit(Entry(record(1)), Entry(record(2)))
    await store.drop_contents(first)
    assert await store.content(first, name) is None
    for session in (second, never):
        found = await store.content(session, name)
        assert found is not None and found.data == data
    await store.close()
    store = await Store.open(tmp_path)
    try:
        assert await store.content(second, name) is not None
        assert await store.content(never, name) is None
    finally:
        await store.close()


@in_loop
async def test_what_was_committed_is_there_after_a_restart(tmp_path: Path) -> None:
    store = await Store.open(tmp_path)
    odd = os.fsdecode(b"\xff\x1b")
    kept = record(1, name=odd, arguments=("a", odd))
    await store.commit(Entry(kept, {"script": b"\x00\xff", "plan": b"{}"}))
    store.defer(Entry(record(2)))
    await store.close()
    store = await Store.open(tmp_path)
    try:
        stored = await store.load(kept.session.id)
        assert stored is not None
        assert stored.record == kept
        assert stored.contents == {"script": b"\x00\xff", "plan": b"{}"}
        assert [each.session.id for each in await store.unfinished()] == [
            f"{1:032x}",
            f"{2:032x}",
        ]
    finally:
        await store.close()


@in_loop
async def test_the_last_change_counts_in_whatever_way_it_was_written(tmp_path: Path) -> None:
    store = await Store.open(tmp_path)
    try:
        store.defer(Entry(record(1, State.RUNNING), {"script": b"x"}))
        committing = asyncio.ensure_future(store.commit(Entry(record(1), {"plan": b"p"})))
        await asyncio.sleep(0)
        committed = asyncio.ensure_future(store.commit(Entry(record(1, State.APPROVED))))
        await asyncio.sleep(0)
        store.defer(Entry(record(1, State.REJECTED)))
        await asyncio.gather(committing, committed)
        stored = await store.load(f"{1:032x}")
        assert stored is not None
        assert stored.record.session.state is State.REJECTED
        assert stored.contents == {"script": b"x", "plan": b"p"}
    finally:
        await store.close()


@in_loop
async def test_pages_have_everything_once(tmp_path: Path) -> None:
    store = await Store.open(tmp_path)
    try:
        for number in range(25):
            store.defer(Entry(record(number)))
        seen: list[object] = []
        before = None
        while True:
            page = await store.page(states=(), name=None, submitter=None, limit=7, before=before)
            assert page.total == 25
            seen += [session["id"] for session in page.sessions]
            if page.next is None:
                break
            before = int(page.next)
        assert seen == [f"{number:032x}" for number in reversed(range(25))]
        mine = await store.page(
            states=(State.PENDING,), name="name 3", submitter=1001, limit=5, before=None
        )
        assert [session["name"] for session in mine.sessions] == ["name 3"]
        assert await store.find("0" * 31, 1000) == [f"{number:032x}" for number in range(0, 16, 2)]
    finally:
        await store.close()


@pytest.mark.P10
@in_loop
async def test_sessions_with_much_in_them_do_not_make_a_page_too_large_to_send(
    tmp_path: Path,
) -> None:
    store = await Store.open(tmp_path)
    try:
        for number in range(6):
            store.defer(Entry(record(number, analysis="x" * (PAGE_BYTES // 2))))
        store.defer(Entry(record(6, analysis="x" * (PAGE_BYTES * 2))))
        seen: list[object] = []
        before = None
        while True:
            page = await store.page(states=(), name=None, submitter=None, limit=100, before=before)
            assert 1 <= len(page.sessions) <= 2
            seen += [session["id"] for session in page.sessions]
            if page.next is None:
                break
            before = int(page.next)
        assert seen == [f"{number:032x}" for number in reversed(range(7))]
    finally:
        await store.close()


@in_loop
async def test_small_and_large_contents(tmp_path: Path) -> None:
    store = await Store.open(tmp_path)
    try:
        small, middle, large = b"small", os.urandom(300_000), os.urandom(20_000_000)
        names = [hashlib.sha256(content).hexdigest() for content in (small, middle, large)]
        await store.keep_small("s1", [(names[0], 5), (names[1], 300_000)], small + middle)
        with tempfile.TemporaryFile() as file:
            file.write(b"before" + large)
            file.seek(6)
            await store.keep_large("s1", names[2], len(large), file.fileno())
            await store.keep_large("s2", names[2], len(large), file.fileno())
        found = await store.contents("s1", names)
        assert [content.size for content in found] == [5, 300_000]
        assert found[0].data == small
        for name, expected in zip(names[1:], (middle, large), strict=True):
            content = await store.content("s1", name)
            assert content is not None
            assert content.descriptor is not None
            assert os.pread(content.descriptor, len(expected) + 1, 0) == expected
            os.close(content.descriptor)
        for content in found[1:]:
            assert content.descriptor is not None
            os.close(content.descriptor)
        assert await store.content("s2", names[0]) is None
        path = tmp_path / "blobs" / names[2][:2] / names[2]
        await store.drop_contents("s1")
        assert path.exists()
        await store.drop_contents("s2")
        assert not path.exists()
    finally:
        await store.close()


@pytest.mark.P2
@in_loop
async def test_a_content_that_is_not_what_its_hash_says_is_refused(tmp_path: Path) -> None:
    store = await Store.open(tmp_path)
    try:
        name = hashlib.sha256(b"right").hexdigest()
        with pytest.raises(ValueError, match="hash"):
            await store.keep_small("s", [(name, 5)], b"wrong")
        with tempfile.TemporaryFile() as file:
            file.write(b"wrong")
            file.seek(0)
            with pytest.raises(ValueError, match="hash"):
                await store.keep_large("s", name, 5, file.fileno())
            file.seek(0)
            with pytest.raises(ValueError, match="bytes instead of"):
                await store.keep_large("s", name, 50, file.fileno())
        assert await store.content("s", name) is None
        assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []
    finally:
        await store.close()


@in_loop
async def test_an_unfinished_copy_is_gone_after_a_restart(tmp_path: Path) -> None:
    await (await Store.open(tmp_path)).close()
    left = tmp_path / "blobs" / "incoming-0123"
    left.write_bytes(b"half")
    await (await Store.open(tmp_path)).close()
    assert not left.exists()


@in_loop
async def test_a_store_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    await (await Store.open(tmp_path)).close()
    database = sqlite3.connect(tmp_path / "store.sqlite")
    assert database.execute("SELECT max(version) FROM migrations").fetchone() == (len(MIGRATIONS),)
    with database:
        database.execute("INSERT INTO migrations VALUES (999, 0)")
    database.close()
    with pytest.raises(ConfigError, match="newer shannot"):
        await Store.open(tmp_path)


@in_loop
async def test_a_file_that_is_no_database_is_an_error_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    path.write_bytes(b"this is no database" * 1000)
    with pytest.raises(StoreFull, match="not a database"):
        await Store.open(tmp_path)
    assert path.read_bytes() == b"this is no database" * 1000


@pytest.mark.P10
@in_loop
async def test_a_full_disk_is_one_error_and_nothing_is_lost(small_disk: Path) -> None:
    store = await Store.open(small_disk / "store")
    try:
        await store.commit(Entry(record(1)))
        filler = small_disk / "filler"
        with filler.open("wb") as file, pytest.raises(OSError):
            while True:
                file.write(bytes(65536))
                file.flush()
        with pytest.raises(StoreFull):
            await store.commit(Entry(record(2), {"plan": os.urandom(300_000)}))
        store.defer(Entry(record(3), {"stdout": os.urandom(300_000)}))
        await store.flush()
        held_up = await store.load(f"{3:032x}")
        assert held_up is not None
        assert held_up.record.session.name == "name 3"
        assert await store.find("0000", None) == [f"{1:032x}", f"{3:032x}"]
        filler.unlink()
        await store.flush()
        page = await store.page(states=(), name=None, submitter=None, limit=9, before=None)
        assert [session["name"] for session in page.sessions] == ["name 3", "name 1"]
    finally:
        await store.close()
