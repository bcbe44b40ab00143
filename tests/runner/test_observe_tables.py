"""The host's mount tables as an observed program is shown them (P7)."""

from __future__ import annotations

import pytest

from shannotd.runner.observe_tables import Tables

pytestmark = pytest.mark.P7

MOUNTS = [
    b"21 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n",
    b"22 21 0:20 / /run rw - tmpfs tmpfs rw,size=1m\n",
    b"23 22 0:21 / /run/two\\040words rw - tmpfs tmpfs rw\n",
    b"24 21 254:0 /srv/www /mnt rw,relatime - ext4 /dev/vda rw\n",
    b"25 21 0:22 / /data/far rw - xfs /dev/vdb rw\n",
    b"26 21 0:22 / /data rw - xfs /dev/vdb rw\n",
    b"27 21 0:20 / /run rw - tmpfs tmpfs rw,size=1m\n",
]
SHORT = [
    b"/dev/vda / ext4 rw 0 0\n",
    b"tmpfs /run tmpfs rw 0 0\n",
    b"tmpfs /run/two\\040words tmpfs rw 0 0\n",
]


@pytest.fixture
def tables() -> Tables:
    return Tables({"mountinfo": MOUNTS, "mounts": SHORT}, {})


def test_where_filesystems_of_a_kind_are(tables: Tables) -> None:
    assert tables.paths("tmpfs") == ["/run", "/run/two words"]
    assert tables.paths("xfs") == ["/data/far", "/data"]
    assert tables.paths("btrfs") == []


def test_what_the_view_has_not_is_left_out_of_both(tables: Tables) -> None:
    left = tables.leave_out({"/run/two words", "/mnt"})
    assert left.lines["mountinfo"] == [MOUNTS[0], MOUNTS[1], MOUNTS[4], MOUNTS[5], MOUNTS[6]]
    assert left.lines["mounts"] == SHORT[:2]


def test_what_is_of_another_size_in_the_view_is_left_out() -> None:
    # Nothing is mounted where views are made: there is no such place here.
    sizes = {"/run": (4096, 256, 1000), "/run/two words": None}
    left = Tables({"mountinfo": MOUNTS, "mounts": SHORT}, sizes).leave_out(())
    assert left.lines["mounts"] == [SHORT[0], SHORT[2]]


def test_each_filesystem_once_where_df_shows_it(tables: Tables) -> None:
    once = tables.once()
    # Not the part of one that is mounted elsewhere too, and the shortest path of a whole one.
    assert once.lines["mountinfo"] == [MOUNTS[0], MOUNTS[1], MOUNTS[2], MOUNTS[5]]
    assert once.lines["mounts"] == SHORT
