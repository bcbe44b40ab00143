"""Many clients at once: rate, waiting times, memory, and what stays behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple

from benchmarks.bench import PYTHON, Bench, python, timed_command
from benchmarks.figures import Figures, Row, mebibytes, milliseconds
from benchmarks.processes import Presence, presence, proportional_memory
from benchmarks.small_scripts import ADD
from shannotctl.async_client import AsyncClient
from shannotctl.client import State

CLIENTS = 20
_GROWTH_BYTES = 5 * 1024 * 1024
_SETTLE_SECONDS = 15.0


def measure(bench: Bench, _count: int, sessions: int = 500) -> Iterator[Row]:
    """`sessions` effect-free sessions by 20 clients at once.

    The daemon has served a fifth as many before: what it builds up once does not count as
    growth.
    """
    path = bench.client.path
    asyncio.run(_crowd(path, max(CLIENTS, sessions // 5)))
    bench.await_warm()
    daemon = bench.client.status().pid
    before, memory_before = presence(daemon, bench.state), proportional_memory(daemon)
    started = time.perf_counter()
    figures = Figures(tuple(asyncio.run(_crowd(path, sessions))))
    elapsed = time.perf_counter() - started
    after = _settled(bench, daemon, before)
    memory_after = proportional_memory(daemon)
    plain = _plain_rate(bench, sessions)
    yield Row(
        what=f"{sessions} sessions by {CLIENTS} clients at once: {sessions / elapsed:.0f} a second",
        median=milliseconds(figures.median),
        p95=milliseconds(figures.p95),
        runs=len(figures),
        beside=f"bare interpreters, {CLIENTS} at once: {plain:.0f} a second",
    )
    growth = memory_after - memory_before
    yield Row(
        what="memory (PSS) of the daemon after them",
        median=mebibytes(memory_after),
        beside=f"before: {mebibytes(memory_before)}",
        aim=f"grows by at most {mebibytes(_GROWTH_BYTES)}",
        met=growth <= _GROWTH_BYTES,
    )
    yield Row(
        what="processes, mounts, cgroups, directories after them",
        median=_words(after),
        beside=f"before: {_words(before)}",
        aim="nothing left behind",
        met=_nothing_more(after, before),
    )


async def _crowd(path: str, sessions: int) -> list[float]:
    """The seconds from request to result of each session."""
    counts = [sessions // CLIENTS + (number < sessions % CLIENTS) for number in range(CLIENTS)]
    taken = await asyncio.gather(*(_one_client(path, count) for count in counts))
    return [seconds for times in taken for seconds in times]


async def _one_client(path: str, count: int) -> list[float]:
    times = []
    async with AsyncClient(path) as client:
        for _ in range(count):
            started = time.perf_counter()
            session = await client.submit(python(ADD))
            times.append(time.perf_counter() - started)
            if session.state is not State.EXECUTED or session.stdout != b"2\n":
                raise RuntimeError(f"a session of the crowd failed: {session.error}")
    return times


def _settled(bench: Bench, daemon: int, before: Presence) -> Presence:
    """What is there when the pool is full again and the last sandbox has gone."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        bench.await_warm()
        found = presence(daemon, bench.state)
        if _nothing_more(found, before) or time.monotonic() > deadline:
            return found


def _nothing_more(now: Presence, before: Presence) -> bool:
    """What was still ending before may have gone."""
    return all(one <= other for one, other in zip(astuple(now), astuple(before), strict=True))


def _plain_rate(bench: Bench, runs: int) -> float:
    script = bench.directory / "add.py"
    script.write_text(ADD)
    started = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as threads:
        for _ in threads.map(lambda _: timed_command(PYTHON, str(script)), range(runs)):
            pass
    return runs / (time.perf_counter() - started)


def _words(found: Presence) -> str:
    return f"{found.processes}, {found.mounts}, {found.cgroups}, {found.directories}"
