"""MessagePack-RPC over a Unix stream: requests, responses and notifications.

Frames (https://github.com/msgpack-rpc/msgpack-rpc/blob/master/spec.md, with `params` one map):

- `[0, id, method, params]` request; `id` an integer below 2**32 of the sender's choice
- `[1, id, error, result]` response; `error` nil or a map code, message, details
- `[2, method, params]` notification

Methods (params -> result). A session id may be any unique prefix of 4 characters or more.

- `daemon.status` {} -> DaemonStatus
- `sessions.submit` Submission -> Session. With `wait`, the answer comes when the dry run has
  ended, and `session.output` notifications until then; without, at once (state `running`).
- `sessions.list` {states?: [str], name?: str, limit?: int, cursor?: str} -> SessionPage,
  newest first
- `sessions.get` {id} -> Session with plan, notes, script and outputs
- `sessions.approve` {id, digest, comment?} -> Session (state `approved` or later)
- `sessions.reject` {id, reason?} -> Session
- `sessions.cancel` {id} -> Session
- `sessions.watch` {id?} -> {} and from then on notifications, for every session that the
  caller may see or for the one named
- `sessions.wait` {id, states: [str], timeout?: float} -> Session, when it is in one of the states
  or in a final one, or the time is up
- `blobs.get` {id, sha256, offset?, length?} -> {data: bytes, size: int}: content of a file that
  the session's plan names, before or after, at most 1 MiB a call
- `audit.tail` {limit?: int, session?: str} -> [AuditRecord]
- `audit.verify` {} -> AuditVerdict

Notifications:

- `session.changed` Session (without plan and outputs), after every change of state
- `session.output` {id, stream: "stdout" | "stderr", data: bytes}
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
MAX_DEPTH = 64


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
    """Bytes in, messages out; holds at most `max_bytes` of an unfinished frame."""

    def __init__(self, max_bytes: int = MAX_REQUEST_BYTES) -> None:
        self._max_bytes = max_bytes
        self._unpacker = msgpack.Unpacker(
            raw=False,
            strict_map_key=True,
            unicode_errors="surrogateescape",
            max_buffer_size=max_bytes,
        )

    def feed(self, data: bytes) -> list[Message]:
        """The messages that `data` completes.

        :raises BadFrame: the bytes are no MessagePack, or no RPC message.
        :raises FrameTooLarge: an unfinished frame is larger than `max_bytes`.
        """
        try:
            self._unpacker.feed(data)
        except msgpack.BufferFull:
            raise FrameTooLarge(limit=self._max_bytes) from None
        messages: list[Message] = []
        while True:
            try:
                value = self._unpacker.unpack()
            except msgpack.OutOfData:
                return messages
            except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
                raise BadFrame(reason=str(error) or type(error).__name__) from None
            messages.append(_message(value))


def _message(value: object) -> Message:
    if not isinstance(value, list) or not value or type(value[0]) is not int:
        raise BadFrame(reason="expected an array that begins with 0, 1 or 2")
    kind, *rest = value
    if kind == REQUEST and len(rest) == 3:
        identifier, method, params = rest
        if type(identifier) is int and isinstance(method, str) and isinstance(params, dict):
            return Request(identifier, method, _string_keys(params))
    elif kind == RESPONSE and len(rest) == 3:
        identifier, error, result = rest
        if type(identifier) is int:
            return Response(identifier, error, result)
    elif kind == NOTIFICATION and len(rest) == 2:
        method, params = rest
        if isinstance(method, str) and isinstance(params, dict):
            return Notification(method, _string_keys(params))
    raise BadFrame(reason="not a request [0, id, method, params], response or notification")


def _string_keys(params: dict[object, object]) -> dict[str, object]:
    if not all(isinstance(key, str) for key in params):
        raise BadFrame(reason="params must be a map with names as keys")
    return cast(dict[str, object], params)
