"""The channel between daemon and runner: length-prefixed frames with a JSON header.

A frame is two big-endian 32-bit lengths, a JSON header (ASCII, an object) and a raw payload.
Strings hold bytes that are not UTF-8 as surrogate escapes. Where both ends are local,
descriptors ride with a frame's first byte (SCM_RIGHTS) and `fds` in the header counts them.

Control connection (daemon -> runner main), one answer per request, in order:

    {op: "hello"}                      -> {builder, limits: [str], version, uid, host}
    {op: "run", fds: 1}   + job end    -> {}   (hands the job channel to a warm sandbox)
    {op: "apply", fds: 1} + job end    -> {}   (hands the job channel to a new apply process)
    {op: "resume", fds: 1} + job end   -> {}   (the same for one that looks after an old apply)
    {op: "amend", fds: 1} + job end    -> {}   (the same for a plan that a reviewer changes)
    {op: "rollback", fds: 1} + job end -> {}   (the same for a plan that takes a session back)
    {op: "checkpoint", fds: 1} + job end -> {} (the same for what a checkpoint has)
    {op: "checkpoints"} -> {checkpoints: [{session, created_at, size, finished}]}   (oldest first)
    {op: "drop_checkpoint", session} -> {}
    {op: "pool", size: int, usual: {run_as, hide, scratch, deny, inside, always}} -> {ready: int}
                                          what most jobs will have of these (see below); without
                                          `usual` it stays as it is
    an error                           -> {error: {code, details}}

A job channel is a socket pair of its own; the daemon keeps one end.

Dry run. The daemon sends one frame, then may send {op: "cancel"} and answers each `decide`:

    {op: "run", session, kind: "python"|"file"|"shell"|"command", name, path: str|null,
     arguments: [str], script_size: int, stdin_size: int, cwd, run_as: str|null,
     environment: {str: str},
     limits: {wall_seconds, output_bytes, written_bytes, processes, memory_bytes, open_files,
              steps, calls, command_memory_bytes: int|null, command_processes: int|null},
     hide: [glob], scratch: [glob], deny: [[name, letters]], inside: [name], always: [name],
     policy_version, on_failure}                                       payload: script + stdin
                         (`!` before a pattern of scratch makes it an exception. Of the programs of
                          the directories on PATH, all but those of `inside` that are not of
                          `always`, too, are asked about. What is left out of hide, scratch, deny,
                          inside and always is as usual.)
    {op: "verdict", call: int, decision: "contain"|"observe"|"review"|"deny", rule, reason, risk,
     observation: {program, argv, net, sockets, as_root, groups, shows, owners, seconds,
         output_bytes}|null,
     recording: {exit_status, stdout, stdin, undo, seconds}|null}

and receives, in order, ending with `end` or a closed channel (= the runner was lost):

    {event: "output", stream: "stdout"|"stderr"}                      payload: bytes
    {event: "decide", call: int, path, program, argv: [str], cwd, as_root: bool, start: bool}
                                 (what becomes of this call of a program? `start`: it goes on
                                  inside unless it is denied; `deny` names these)
    {event: "programs", programs: [{argv, count, cut}]}               (what was started inside)
    {event: "exited", exit_code: int|null, signal: int|null,
     stopped: null|"cancelled"|"wall_seconds"|"output_bytes"|"processes"|"memory_bytes",
     duration, stdout_dropped: int, stderr_dropped: int, leftover: int}
    {event: "blobs", blobs: [[sha256, size], ...]}                    payload: contents, in order
    {event: "blob", sha256, size, fds: 1} + a read-only descriptor    (large contents; to be read
                                                                       from its current offset)
    {event: "plan", digest, seal, canonical_size, notes_size}         payload: canonical + notes
    {event: "error", code, details}                                   (then no plan follows)
    {event: "end"}

`notes` is a JSON list with one object per step: {diff: str|null, binary, too_large,
holders: [{pid, program}], others: [path], changed: str|null} (who holds open for writing what the
step displaces; what a command is given that other accounts can change; of a rollback: what should
be there in place of what somebody put there).
`seal` proves to the runner, at apply, that it recorded this digest for this session.

A call. A shim, which runs in place of a program whose call is neither contained nor denied at once,
connects to `calls` in the sandbox's own directory and sends one frame with its standard
descriptors; it waits for the last of the answers:

    {op: "call", fds: 3, environment: {str: str}}
    <- {event: "output", stream: "stdout"|"stderr"}                   payload: bytes
    <- {event: "exit", exit_code: int|null, signal: int|null}         (it ends like that)

Apply. The daemon sends one frame and then answers each `need`:

    {op: "apply", session, digest, seal}                              payload: canonical
    <- {event: "held", index, holders: [{pid, program}]}     (as in notes, as it is now)
    <- {event: "need", sha256: [..]}
    {op: "blobs", blobs: [[sha256, size], ...]} payload / {op: "blob", sha256, size, fds: 1}
    <- {event: "command_starting", index}      (it is run when {op: "go"} is the answer)
    <- {event: "command_output", index, stream: "stdout"|"stderr"}    payload: bytes
    <- {event: "command", index, exit_status: int|null, signal: int|null,
        stopped: null|"seconds"|"output_bytes"|"cancelled"|"not_started",
        duration, truncated: [stream], left: int}       (`left`: processes that it left behind)
    <- {event: "steps", first, last, applied: "done"|"failed"|"stale"|"skipped"|"undone"|"in_doubt"}
    <- {event: "error", code: "stale"|"apply_failed"|..., details}    (what stopped it)
    <- {event: "end"}

`undone` comes after `done` where a failure had the runner take back what was applied. `in_doubt` is
a command that was running when its apply was cut short.

Resume. The daemon sends one frame, and gets `steps`, `error` and `end` as above when the apply of
that session has ended, or was brought to an end:

    {op: "resume", session}

At any time {op: "cancel"} ends a command that runs; nothing after the step at hand is done.

Amending. The daemon sends one frame with a plan of `session` and what is to be changed in it, and
answers each `need` as in an apply. The plan that comes of it is of the session `to`.

    {op: "amend", session, digest, seal, to, canonical_size}          payload: canonical + changes
    <- {event: "need", sha256: [..]}
    <- {event: "amended"}                                             payload: outcome
    <- {event: "plan", digest, seal, canonical_size, notes_size}      payload: canonical + notes
    <- {event: "error", code: "not_amendable"|"step_needed"|"stale"|..., details}    (no plan then)
    <- {event: "end"}

`changes` is JSON {drop: [index], edits: [[index, sha256, size]], with_dependents: bool}; the new
content is of what the step writes, of an `append` only what is appended. What `notes` do not say is
as it was. `outcome` is JSON {origins: [index], dropped: [index], missed: [[index, index]],
edited: [index], replaced: [[index, index]]}: where each step was in the old plan; which steps of
that one are gone; which step may miss which of them; which are edited; and which of these a later
step writes anew. An index is of the new plan, but where it is of a step that is gone.

Rolling back. The daemon sends one frame and answers each `decide`, which is about a command that
makes up for one of the session `of`. The plan takes back what that one did, and is of `session`:

    {op: "rollback", session, of, policy_version, force_all: bool}    payload: JSON [path] to force
    <- {event: "decide", ...}
    <- {event: "conflicts"}                    payload: JSON [{path, expected, found, forcible}]
    or, in place of it:
    <- {event: "blobs", ...} / {event: "blob", ...}
    <- {event: "staying"}                      payload: JSON [{step, argv, program, reason}]
    <- {event: "plan", digest, seal, canonical_size, notes_size}      payload: canonical + notes
    <- {event: "error", code: "checkpoint_unknown"|"not_reversible"|..., details}    (no plan then)
    <- {event: "end"}

`conflicts` are paths that are no longer as the session left them, `staying` its commands of which
what they did stays.

Looking at a checkpoint. The daemon sends one frame:

    {op: "checkpoint", session}
    <- {event: "saved"}                        payload: JSON [{step, change, path, entries, size}]
    <- {event: "error", code: "checkpoint_unknown", details}
    <- {event: "end"}
"""

from __future__ import annotations

import array
import json
import os
import socket
import struct
from typing import Any, Dict, List, Optional, Tuple

LENGTHS = struct.Struct(">II")
MAX_HEADER_BYTES = 4 * 1024 * 1024
MAX_PAYLOAD_BYTES = 256 * 1024 * 1024
MAX_DESCRIPTORS = 5
_AHEAD_BYTES = 64 * 1024
_JOINED_BYTES = 65536  # up to here a payload goes out in one piece with what comes before it

Header = Dict[str, Any]


class Closed(Exception):
    """The other end of the channel is gone."""


class RunnerError(Exception):
    """A failure that the caller meets as the error `code` of wire/errors.py."""

    def __init__(self, code: str, **details: object) -> None:
        super().__init__(code, details)
        self.code = code
        self.details = details

    def header(self) -> Header:
        """The event that reports it."""
        return {"event": "error", "code": self.code, "details": self.details}


class Channel:
    """Frames over a connected stream socket, blocking; owns the socket.

    It reads `ahead` of the frame that is asked for, if it may: then poll does not tell of what is
    `pending`.
    """

    def __init__(self, sock: socket.socket, *, ahead: bool = True) -> None:
        self.socket = sock
        self._ahead = _AHEAD_BYTES if ahead else 1
        self._buffer = bytearray()
        self._descriptors: List[int] = []
        self._held = bytearray()

    def fileno(self) -> int:
        """The socket's descriptor, for poll."""
        return self.socket.fileno()

    def close(self) -> None:
        """Close the socket and every descriptor that was received and not taken."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()
        self.socket.close()

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, header: Header, payload: bytes = b"", descriptors: Tuple[int, ...] = ()) -> None:
        """Send one frame, all of it.

        :raises Closed: the other end is gone.
        """
        if descriptors:
            header = {**header, "fds": len(descriptors)}
        self._held += encode(header, payload)
        self.flush(payload, descriptors)

    def hold(self, header: Header, payload: bytes = b"") -> None:
        """`send` one frame, if it is small together with a later one: a reader wakes up once.

        :raises Closed: the other end is gone.
        """
        self._held += encode(header, payload)
        if len(payload) + len(self._held) > _JOINED_BYTES:
            self.flush(payload)
        else:
            self._held += payload

    def flush(self, payload: bytes = b"", descriptors: Tuple[int, ...] = ()) -> None:
        """Send what is held, then `payload`.

        :raises Closed: the other end is gone.
        """
        if len(payload) <= _JOINED_BYTES:
            self._held += payload
            payload = b""
        data, self._held = bytes(self._held), bytearray()
        if not data:
            return
        try:
            if descriptors:
                rights = array.array("i", descriptors)
                sent = self.socket.sendmsg(
                    [data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], socket.MSG_NOSIGNAL
                )
                data = data[sent:]
            if data:
                self.socket.sendall(data, socket.MSG_NOSIGNAL)
            if payload:
                self.socket.sendall(payload, socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Closed from error
        except BlockingIOError as error:
            raise Closed("the other end does not read") from error

    def limit_sending(self, seconds: int) -> None:
        """Take an end that reads nothing for `seconds` for gone (SO_SNDTIMEO, socket(7))."""
        timeout = struct.pack("@ll", seconds, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)

    def receive(self) -> Tuple[Header, bytes, List[int]]:
        """The next frame and its descriptors (the caller's from now on).

        :raises Closed: the other end is gone, or sent no frame.
        """
        lengths = self._take(LENGTHS.size)
        header_size, payload_size = LENGTHS.unpack(lengths)
        if header_size > MAX_HEADER_BYTES or payload_size > MAX_PAYLOAD_BYTES:
            raise Closed(f"a frame of {header_size} + {payload_size} bytes")
        header = parse_header(self._take(header_size))
        payload = self._take(payload_size)
        count = header.get("fds", 0)
        if not isinstance(count, int) or not 0 <= count <= len(self._descriptors):
            raise Closed("fewer descriptors than announced")
        taken, self._descriptors = self._descriptors[:count], self._descriptors[count:]
        return header, payload, taken

    def receive_plain(self) -> Tuple[Header, bytes]:
        """The next frame, which needs no descriptors: those that came with it are closed."""
        header, payload, descriptors = self.receive()
        for descriptor in descriptors:
            os.close(descriptor)
        return header, payload

    def pending(self) -> bool:
        """Whether received bytes wait that `receive` has not used: poll would not tell."""
        return bool(self._buffer)

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            try:
                data, ancillary, _, _ = self.socket.recvmsg(
                    max(self._ahead, min(size - len(self._buffer), 1 << 20)),
                    socket.CMSG_SPACE(MAX_DESCRIPTORS * 4),
                    socket.MSG_CMSG_CLOEXEC,
                )
            except ConnectionResetError as error:
                raise Closed from error
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    self._descriptors.extend(passed_descriptors(content))
            if not data:
                raise Closed
            self._buffer += data
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken


def passed_descriptors(content: bytes) -> List[int]:
    """The descriptors in an SCM_RIGHTS message."""
    rights = array.array("i")
    rights.frombytes(content[: len(content) - len(content) % rights.itemsize])
    return list(rights)


def encode(header: Header, payload: bytes) -> bytes:
    """A frame up to its payload."""
    encoded = json.dumps(header, separators=(",", ":")).encode("ascii")
    return LENGTHS.pack(len(encoded), len(payload)) + encoded


def parse_header(encoded: bytes) -> Header:
    """The header in `encoded`.

    :raises Closed: there is none.
    """
    try:
        header: Optional[Header] = json.loads(encoded)
    except ValueError as error:
        raise Closed("a frame whose header is no JSON") from error
    if not isinstance(header, dict):
        raise Closed("a frame whose header is no object")
    return header
