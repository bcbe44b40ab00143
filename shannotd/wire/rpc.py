"""MessagePack-RPC over a Unix stream: requests, responses and notifications.

Frames (https://github.com/msgpack-rpc/msgpack-rpc/blob/master/spec.md, with `params` one map):

- `[0, id, method, params]` request; `id` an integer below 2**32 of the sender's choice
- `[1, id, error, result]` response; `error` nil or a map code, message, details
- `[2, method, params]` notification

Methods (params -> result). A session id may be any unique prefix of 4 characters or more.

- `daemon.status` {} -> DaemonStatus
- `sessions.submit` Submission -> Session. With `wait`, the answer comes when the dry run has
  ended; before it one `session.changed` notification at once (state `running`), which tells the
  id, and `session.output` notifications. Without, the answer comes at once (state `running`).
- `sessions.list` {states?: [str], name?: str, limit?: int, cursor?: str} -> SessionPage,
  newest first; a page may hold fewer than `limit` where sessions are large
- `sessions.get` {id} -> Session with plan, notes, script and outputs
- `sessions.approve` {id, digest, comment?} -> Session (state `approved` or later)
- `sessions.reject` {id, reason?} -> Session
- `sessions.amend` {id, digest, drop?: [int], edits?: [{index: int, content: bytes}],
  with_dependents?: bool} -> Session: the pending plan that comes of it, of a session of its own;
  the one before is `rejected`. Steps are named by their indexes: those of `drop` are left out, with
  `with_dependents` also those that cannot stay then; those of `edits` write another content (an
  `append` appends it), of `MAX_EDIT_BYTES` together at most
- `sessions.cancel` {id} -> Session. Of a plan that is being applied nothing after the step at
  hand is done, and a command that runs is ended; the session is `failed` then
- `sessions.watch` {id?} -> {} and from then on notifications, for every session that the
  caller may see or for the one named
- `sessions.wait` {id, states: [str], timeout?: float} -> Session, when it is in one of the states
  or in a final one, or the time is up
- `blobs.get` {id, sha256, offset?, length?} -> {data: bytes, size: int}: content of a file that
  the session's plan names, before or after, at most 1 MiB a call
- `audit.tail` {limit?: int, session?: str} -> [AuditRecord]
- `audit.verify` {} -> AuditVerdict
- `policy.explain` {argv: [str], cwd?: str, profile?: str} -> Explanation: what policy says of a
  call; nothing is run

Notifications:

- `session.changed` Session (without plan and outputs), after every change of state
- `session.output` {id, stream: "stdout" | "stderr", data: bytes}
- `session.command_output` {id, index: int, stream, data: bytes}: of a command while a plan is
  applied
- `session.command` {id, command, decision, rule, reason, risk}: policy decided on a program that
  the script called
- `session.step` {id, index: int, applied: str} while a plan is applied
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import msgpack

from shannotd.wire.errors import BadFrame, FrameTooLarge

REQUEST, RESPONSE, NOTIFICATION = 0, 1, 2
MAX_FRAME_BYTES = 160 * 1024 * 1024
MAX_REQUEST_BYTES = 16 * 1024 * 1024
MAX_EDIT_BYTES = MAX_REQUEST_BYTES - 1024 * 1024  # leaves room for the rest of a request
MAX_DEPTH = 64
_LARGE_FRAME = 1024 * 1024


@dataclass(frozen=True)
class Request:
    """A call that wants an answer."""

    id: int
    method: str
    params: dict[str, object]


@dataclass(frozen=True)
class Response:
    """The answer to the request of the same id; `error` is None when it went well."""

    id: int
    error: object
    result: object


@dataclass(frozen=True)
class Notification:
    """A message that wants no answer."""

    method: str
    params: dict[str, object]


Message = Request | Response | Notification


def pack(message: Message) -> bytes:
    """The bytes of one frame. Surrogate escapes in strings become their bytes again."""
    if isinstance(message, Request):
        value: list[object] = [REQUEST, message.id, message.method, message.params]
    elif isinstance(message, Response):
        value = [RESPONSE, message.id, message.error, message.result]
    else:
        value = [NOTIFICATION, message.method, message.params]
    return cast(bytes, msgpack.packb(value, use_bin_type=True, unicode_errors="surrogateescape"))


class Decoder:
    """Bytes in, messages out; holds at most `max_bytes` of an unfinished frame.

    What a frame may hold is bounded too, so that no small frame becomes large in memory:
    `max_bytes / 64` values in lists and maps, `MAX_DEPTH` levels, no extension types, and maps
    only with strings as keys, each once.
    """

    def __init__(self, max_bytes: int = MAX_REQUEST_BYTES) -> None:
        self._max_bytes = max_bytes
        self._max_values = max(1024, max_bytes // 64)
        self._values = 0
        self._begin()

    def _begin(self) -> None:
        self._fed = 0
        self._taken = 0
        self._unpacker = msgpack.Unpacker(
            raw=False,
            strict_map_key=True,
            unicode_errors="surrogateescape",
            read_size=16384,
            # No limit of the unpacker's own buffer: it forgets what it has parsed of a frame
            # that is not finished, so bytes are counted here.
            max_buffer_size=0,
            max_str_len=self._max_bytes,
            max_bin_len=self._max_bytes,
            max_array_len=self._max_values,
            max_map_len=self._max_values,
            max_ext_len=0,
            ext_hook=_refuse_extension,
            object_pairs_hook=self._map,
            list_hook=self._list,
        )

    def feed(self, data: bytes) -> list[Message]:
        """The messages that `data` completes.

        :raises BadFrame: the bytes are no MessagePack, or no RPC message.
        :raises FrameTooLarge: a frame is larger than `max_bytes`.
        """
        self._unpacker.feed(data)
        self._fed += len(data)
        messages: list[Message] = []
        while True:
            try:
                value = self._unpacker.unpack()
            except msgpack.OutOfData:
                self._check_size(self._fed)
                return messages
            except msgpack.StackError:
                raise BadFrame(reason=f"more than {MAX_DEPTH} levels of lists and maps") from None
            except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
                raise BadFrame(reason=str(error) or type(error).__name__) from None
            end = self._unpacker.tell()
            self._check_size(end)
            size, self._taken, self._values = end - self._taken, end, 0
            messages.append(_message(value))
            if size > _LARGE_FRAME and self._fed == end:
                # The unpacker keeps a buffer as large as the largest frame.
                self._begin()

    @property
    def unfinished(self) -> int:
        """How many bytes there are of a frame that is not finished."""
        return self._fed - self._taken

    def _check_size(self, end: int) -> None:
        if end - self._taken > self._max_bytes:
            raise FrameTooLarge(limit=self._max_bytes)

    def _map(self, pairs: list[tuple[object, object]]) -> dict[object, object]:
        self._count(len(pairs))
        value = dict(pairs)
        if len(value) != len(pairs):
            raise ValueError("a map with the same key twice")
        if not all(type(key) is str for key in value):
            raise ValueError("a map with a key that is no string")
        return value

    def _list(self, values: list[object]) -> list[object]:
        self._count(len(values))
        return values

    def _count(self, values: int) -> None:
        self._values += values + 1
        if self._values > self._max_values:
            raise ValueError(f"more than {self._max_values} values in one message")


def _message(value: object) -> Message:
    if not isinstance(value, list) or not value or type(value[0]) is not int:
        raise BadFrame(reason="expected an array that begins with 0, 1 or 2")
    if _too_deep(value):
        raise BadFrame(reason=f"more than {MAX_DEPTH} levels of lists and maps")
    kind, *rest = value
    if kind == REQUEST and len(rest) == 3:
        identifier, method, params = rest
        if _is_id(identifier) and isinstance(method, str) and isinstance(params, dict):
            return Request(identifier, method, params)
    elif kind == RESPONSE and len(rest) == 3:
        identifier, error, result = rest
        if _is_id(identifier):
            return Response(identifier, error, result)
    elif kind == NOTIFICATION and len(rest) == 2:
        method, params = rest
        if isinstance(method, str) and isinstance(params, dict):
            return Notification(method, params)
    raise BadFrame(reason="not a request [0, id, method, params], response or notification")


def _refuse_extension(code: int, _: bytes) -> object:
    raise ValueError(f"a value of extension type {code}")


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**32


def _too_deep(value: list[object]) -> bool:
    level: list[list[object] | dict[object, object]] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for container in level
            for child in (container.values() if isinstance(container, dict) else container)
            if isinstance(child, list | dict)
        ]
        if not level:
            return False
    return True
