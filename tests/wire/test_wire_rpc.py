"""Frames: good ones arrive whole however they are cut, bad ones cost one typed error."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterable

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shannotd.wire.errors import BadFrame, FrameTooLarge
from shannotd.wire.rpc import (
    MAX_DEPTH,
    Decoder,
    Message,
    Notification,
    Request,
    Response,
    pack,
)

pytestmark = pytest.mark.P10

ids = st.integers(0, 2**32 - 1)
# Bytes that are no UTF-8 travel in strings as surrogate escapes.
names = st.text(max_size=12) | st.binary(max_size=12).map(
    lambda raw: raw.decode("utf-8", "surrogateescape")
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | names
    | st.binary(max_size=40)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=20,
)
params = st.dictionaries(names, values, max_size=5)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Request, ids, names, params),
    st.builds(Response, ids, values, values),
    st.builds(Notification, names, params),
)


def decoded(chunks: Iterable[bytes]) -> list[Message]:
    decoder = Decoder()
    return [message for chunk in chunks for message in decoder.feed(chunk)]


@given(messages)
def test_pack_then_decode_is_the_same(message: Message) -> None:
    assert decoded([pack(message)]) == [message]


@given(st.lists(messages, min_size=1, max_size=4), st.data())
def test_frames_arrive_however_they_are_cut(sent: list[Message], data: st.DataObject) -> None:
    stream = b"".join(map(pack, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert decoded(pieces) == sent
    assert decoded(stream[at : at + 1] for at in range(len(stream))) == sent


@given(messages, st.data())
def test_a_truncated_frame_is_no_message_and_no_error(
    message: Message, data: st.DataObject
) -> None:
    frame = pack(message)
    assert decoded([frame[: data.draw(st.integers(0, len(frame) - 1))]]) == []


def survives(stream: bytes) -> None:
    """`stream` gives messages or one typed error, nothing else."""
    try:
        for message in Decoder(64 * 1024).feed(stream):
            assert isinstance(message, Request | Response | Notification)
    except (BadFrame, FrameTooLarge) as error:
        assert str(error)


@given(st.binary(max_size=200))
def test_any_bytes_are_survived(stream: bytes) -> None:
    survives(stream)


@given(messages, st.data())
def test_a_mutated_frame_is_survived(message: Message, data: st.DataObject) -> None:
    frame = bytearray(pack(message))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    survives(bytes(frame))


@pytest.mark.long
@settings(max_examples=20, deadline=None)
@given(st.lists(messages, min_size=20, max_size=40), st.integers())
def test_a_hundred_thousand_frames(base: list[Message], seed: int) -> None:
    """5,000 variants in each of 20 examples: cut, mutated, nested and glued frames."""
    chance = random.Random(seed)
    frames = [pack(message) for message in base]
    for _ in range(5_000):
        frame = bytearray(chance.choice(frames))
        match chance.randrange(4):
            case 0:
                del frame[chance.randrange(len(frame)) :]
            case 1:
                for _ in range(chance.randrange(1, 6)):
                    frame[chance.randrange(len(frame))] = chance.randrange(256)
            case 2:
                at = chance.randrange(len(frame))
                frame[at:at] = bytes([chance.choice(b"\x81\x91\xdc\xdd\xde\xdf\xc7\xc9")]) * 9
            case _:
                at = chance.randrange(len(frame))
                frame[at:at] = chance.choice(frames)
        survives(bytes(frame))


NOTIFY = b"\x93\x02\xa1m"  # [2, "m", ...


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"\xc1", "FormatError"),
        (b"\x01", "an array that begins with"),
        (b"\xc0", "an array that begins with"),
        (b"\x90", "an array that begins with"),
        (b"\x80", "an array that begins with"),
        (b"\x91\xc3", "an array that begins with"),
        (b"\x91\x00", "not a request"),
        (b"\x94\x00\x01\xa1m\xc0", "not a request"),
        (b"\x94\x00\x01\xc4\x01m\x80", "not a request"),
        (b"\x94\x00\xff\xa1m\x80", "not a request"),
        (b"\x94\x00\xc3\xa1m\x80", "not a request"),
        (b"\x94\x00\xcf\x00\x00\x00\x01\x00\x00\x00\x00\xa1m\x80", "not a request"),
        (b"\x94\x01\xa1i\xc0\xc0", "not a request"),
        (b"\x94\x03\x01\xa1m\x80", "not a request"),
        (b"\x95\x00\x01\xa1m\x80\x80", "not a request"),
        (NOTIFY + b"\x90", "not a request"),
        (NOTIFY + b"\x82\xa1a\x01\xa1a\x02", "the same key twice"),
        (NOTIFY + b"\x81\xc4\x01a\x01", "a key that is no string"),
        (NOTIFY + b"\x81\x01\x02", "not allowed for map key"),
        (NOTIFY + b"\x81\x90\x02", "not allowed for map key"),
        (NOTIFY + b"\x81\xc0\x02", "not allowed for map key"),
        (NOTIFY + b"\x81\xcb\x7f\xf8\0\0\0\0\0\0\x02", "not allowed for map key"),
        (NOTIFY + b"\x81\xa1a\xd4\x05x", "max_ext_len"),
        (NOTIFY + b"\x81\xa1a\xd6\xff\0\0\0\x01", "max_ext_len"),
        (NOTIFY + b"\x81\xa1a\xc7\x00\x05", "extension type 5"),
        (NOTIFY + b"\x81\xa1a\xc9\xff\xff\xff\xff\x05", "max_ext_len"),
        (NOTIFY + b"\xdf\xff\xff\xff\xff", "max_map_len"),
        (b"\xdd\xff\xff\xff\xff", "max_array_len"),
        (b"\x91" * 100_000, "levels"),
        (b"\x81\xa1a" * 100_000, "levels"),
    ],
)
def test_a_bad_frame_is_refused_with_its_reason(frame: bytes, reason: str) -> None:
    with pytest.raises(BadFrame) as caught:
        Decoder().feed(frame)
    assert reason in str(caught.value.details["reason"])


def nested(levels: int) -> bytes:
    """A notification with so many levels of lists and maps."""
    return NOTIFY + b"\x81\xa1a" + b"\x91" * (levels - 3) + b"\x90"


def test_nesting_has_its_limit() -> None:
    assert len(Decoder().feed(nested(MAX_DEPTH))) == 1
    with pytest.raises(BadFrame, match="levels"):
        Decoder().feed(nested(MAX_DEPTH + 1))


def test_good_messages_before_a_bad_frame_are_lost_with_the_connection() -> None:
    """The error wins: the connection is closed, and nothing of it is half done."""
    good = pack(Request(1, "daemon.status", {}))
    with pytest.raises(BadFrame):
        Decoder().feed(good + b"\xc1")
    decoder = Decoder()
    assert len(decoder.feed(good)) == 1
    with pytest.raises(BadFrame):
        decoder.feed(b"\xc1")


def test_the_size_limit_is_exact() -> None:
    frame = pack(Notification("m", {"data": b"x" * 10_000}))
    assert len(Decoder(len(frame)).feed(frame)) == 1
    with pytest.raises(FrameTooLarge):
        Decoder(len(frame) - 1).feed(frame)


def test_many_small_frames_together_are_no_large_one() -> None:
    frame = pack(Notification("m", {"data": b"x" * 10_000}))
    assert len(Decoder(len(frame)).feed(frame * 50)) == 50


def test_an_unfinished_frame_is_held_up_to_the_limit_only() -> None:
    """Also one of many short strings, of which the unpacker forgets the bytes."""
    limit = 256 * 1024
    decoder = Decoder(limit)
    decoder.feed(NOTIFY + b"\x81\xa1a\xdc\x0f\xff")
    fed = 0
    with pytest.raises(FrameTooLarge):
        while fed < 8 * limit:
            decoder.feed(b"\xda\x40\x00" + b"x" * 0x4000)
            fed += 0x4003
    assert fed <= limit


@pytest.mark.parametrize(
    "element",
    [b"\x80", b"\x90", b"\xc0", b"\xcd\xff\xfe", b"\xa2ab", b"\xc4\x00", b"\x81\xa0\xc0"],
    ids=repr,
)
def test_a_frame_becomes_little_more_in_memory(element: bytes) -> None:
    """Many tiny values would take 70 times their bytes; so their number is limited."""
    limit = 1024 * 1024
    lists = b"".join(
        b"\xdd" + (10_000).to_bytes(4, "big") + element * 10_000
        for _ in range(limit // (10_000 * len(element)))
    )
    count = limit // (10_000 * len(element))
    frame = NOTIFY + b"\x81\xa1a\xdd" + count.to_bytes(4, "big") + lists
    decoder = Decoder(limit * 2)
    tracemalloc.start()
    try:
        with pytest.raises(BadFrame, match="values in one message"):
            decoder.feed(frame)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 12 * limit


@pytest.mark.parametrize("header", [b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"], ids=repr)
def test_a_value_longer_than_a_frame_is_refused_at_the_limit(header: bytes) -> None:
    decoder = Decoder(100_000)
    assert decoder.feed(NOTIFY + b"\x81\xa1a" + header + b"x" * 90_000) == []
    with pytest.raises(FrameTooLarge):
        decoder.feed(b"x" * 10_000)


def test_headers_of_huge_lists_reserve_nothing() -> None:
    header = b"\xdd\x00\x03\xff\xff"
    tracemalloc.start()
    try:
        decoder = Decoder()
        assert decoder.feed(header * MAX_DEPTH) == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # 64 lists of 262,143 pointers would be 128 MiB.
    assert peak < 256 * 1024 * 1024


def test_the_buffer_of_a_large_frame_is_given_back() -> None:
    frame = pack(Notification("m", {"data": b"x" * (8 * 1024 * 1024)}))
    decoder = Decoder()
    tracemalloc.start()
    try:
        assert len(decoder.feed(frame)) == 1
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert left < 1024 * 1024
    assert decoder.feed(pack(Request(7, "m", {}))) == [Request(7, "m", {})]


def test_keys_and_values_that_are_no_utf8_come_back_as_bytes() -> None:
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    frame = pack(Request(1, "m", {"path": name}))
    assert b"caf\xe9" in frame
    assert msgpack.unpackb(frame, raw=True)[3] == {b"path": b"caf\xe9"}
    assert decoded([frame]) == [Request(1, "m", {"path": name})]
