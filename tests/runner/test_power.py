"""A power cut at any moment of an apply: what is on the disk then (P3, P4)."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import pytest

from tests.runner import overlays
from tests.support import mixed, power
from tests.support.accounts import is_root
from tests.support.applying import resuming
from tests.support.mixed import Bed
from tests.support.power import Kept
from tests.support.truth import check_told, files_told

pytestmark = [
    pytest.mark.P3,
    pytest.mark.P4,
    pytest.mark.skipif(not is_root(), reason="mounts images"),
]
SHARES = 4


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    with mixed.bed(mixed.quick_place()) as found:
        yield found


@pytest.fixture(scope="module")
def quiet(bed: Bed) -> Kept:
    """An apply during which nobody else had anything written."""
    return power.keep(bed, committing=False)


@pytest.fixture(scope="module")
def busy(bed: Bed) -> Kept:
    """An apply during which others had the filesystem's journal committed all the time."""
    return power.keep(bed, committing=True)


def check(bed: Bed, image: bytes, batches: int) -> None:
    """Every path is old or new, and what had to be there is; then all of it is, or nothing."""
    with power.restored(bed, image):
        found = overlays.snapshot(bed.host)
        wrong: list[str | None] = []
        for number in range(batches, len(bed.states) - 1):
            wrong.append(mixed.is_between(found, *bed.states[number : number + 2]))
        if batches == len(bed.states) - 1:
            wrong.append(mixed.is_between(found, bed.states[-1], bed.states[-1]))
        assert None in wrong, wrong
        with resuming(bed.state) as told:
            told.finish()
        commands = len(bed.states) - 2
        check_told(bed, told, ran=(batches - 1, min(batches, commands)))
        assert told.error is None or "done" not in files_told(bed, told)
        assert told.error is None or batches <= commands


def check_all(bed: Bed, kept: Kept, cuts: Sequence[int]) -> None:
    """After each of so many writes."""

    def work() -> None:
        for count in cuts:
            check(bed, kept.cut_after(count), kept.batches(count))

    power.namespaced(work)


# Of so many writes one is tried, other than in a long run.
EACH = 3


@pytest.mark.parametrize("share", range(SHARES))
def test_after_any_write(bed: Bed, quiet: Kept, share: int) -> None:
    check_all(bed, quiet, range(share, len(quiet.log) + 1, SHARES * EACH))


@pytest.mark.parametrize("share", range(SHARES))
def test_when_names_are_on_the_disk_and_data_is_not(bed: Bed, busy: Kept, share: int) -> None:
    check_all(bed, busy, busy.commits[share :: SHARES * EACH])


@pytest.mark.parametrize("seed", range(SHARES))
def test_when_the_disk_loses_its_cache(bed: Bed, busy: Kept, seed: int) -> None:
    check_lost(bed, busy, seed)


def check_lost(bed: Bed, kept: Kept, seed: int) -> None:
    """After some writes, with the cache of the disk lost."""

    def work() -> None:
        chance = random.Random(seed)
        for _ in range(10):
            count = chance.randrange(len(kept.log) + 1)
            image = kept.cut_with_cache_lost(count, chance)
            check(bed, image, kept.batches(count))

    power.namespaced(work)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_after_every_write(bed: Bed, quiet: Kept, busy: Kept) -> None:
    for kept in (quiet, busy):
        for first in range(0, len(kept.log) + 1, 50):
            check_all(bed, kept, range(first, min(first + 50, len(kept.log) + 1)))
    for seed in range(200):
        check_lost(bed, quiet if seed % 2 else busy, seed)


@pytest.mark.parametrize("committing", [False, True])
def test_without_syncing_it_is_seen(bed: Bed, committing: bool) -> None:
    """That these tests can fail."""
    kept = power.keep(bed, committing=committing, syncing=False)
    cuts = kept.commits if committing else [moment.position for moment in kept.moments]
    with pytest.raises(AssertionError):
        check_all(bed, kept, cuts)
