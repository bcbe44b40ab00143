"""From a finished sandbox to a plan on the job channel: capture, check, seal, send.

The contents of changed files go first, then the plan's canonical encoding with its digest
and the seal by which this runner will know it again.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Dict, List, Mapping, Optional, Protocol, Sequence, Tuple, Union

from shannotd.runner import plan as plans
from shannotd.runner.barrier import Delta, Recorder
from shannotd.runner.compare import Content
from shannotd.runner.frames import MAX_PAYLOAD_BYTES, Channel, Header, RunnerError
from shannotd.runner.holders import holders
from shannotd.runner.identity import Floor, machine
from shannotd.runner.needed import apply_named, contents_of
from shannotd.runner.obstacles import protected_paths
from shannotd.runner.others import others
from shannotd.runner.permission import first_refusal, not_permitted

if TYPE_CHECKING:
    from shannotd.runner.warm import Settings, Warm

INLINE_BYTES = 256 * 1024
BATCH_BYTES = 4 * 1024 * 1024


_KEY = "runner.key"


def key(state: str) -> bytes:
    """The runner's secret for seals, made at the first use; only the runner's uid reads it.

    :raises RunnerError: `sandbox_unavailable`: it can be neither read nor made.
    """
    path = os.path.join(state, _KEY)
    try:
        return _key_at(path)
    except OSError as error:
        raise _no_key(path, error) from error


def check_key(state: str) -> None:
    """See that `key` will give one, without having it.

    :raises RunnerError: as `key`.
    """
    path = os.path.join(state, _KEY)
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))
    except FileNotFoundError as error:
        if not os.access(state, os.W_OK, effective_ids=True):
            raise _no_key(path, error) from error
    except OSError as error:
        raise _no_key(path, error) from error


def _no_key(path: str, error: OSError) -> RunnerError:
    reason = f"{path}: {error.strerror}"
    remedy = "See that the runner's directory can be written."
    return RunnerError("sandbox_unavailable", reason=reason, remedy=remedy)


def _key_at(path: str) -> bytes:
    try:
        return _read_key(path)
    except FileNotFoundError:
        temporary = f"{path}.{os.urandom(8).hex()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(temporary, flags, 0o600), "wb") as file:
            file.write(os.urandom(32))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)  # Whoever comes first wins; nobody overwrites.
        except FileExistsError:
            pass
        os.unlink(temporary)
        return _read_key(path)


def _read_key(path: str) -> bytes:
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb") as file:
        return file.read()


# What of all inputs and outputs of a session's commands is kept.
KEPT_BYTES = 64 * 1024 * 1024


# What the words and environments of all commands may have together.
WORD_BYTES = 64 * 1024 * 1024


class Record:
    """What becomes of one session: its script's changes and the commands among them in order, and
    beside them the calls that change nothing.

    Where among the changes since the last command such a call was made, nobody knows: changes are
    taken at a command. So these calls are no steps among them. Owns the contents of all of it until
    it is closed.
    """

    def __init__(
        self, request: Header, who: plans.Identity, warm: Warm, started_ns: int, settings: Settings
    ) -> None:
        self._request = request
        self._who = who
        self._settings = settings
        self._warm = warm
        self._changes = Recorder(warm, request, who, settings, started_ns)
        self._steps: List[object] = []
        self._notes: List[plans.StepNote] = []
        self._beside: List[plans.CommandStep] = []
        self._contents: Dict[str, Union[Content, Kept]] = {}
        self._kept_bytes = 0
        self._word_bytes = 0

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the contents."""
        self._changes.close()

    def keep(self, content: bytes) -> Tuple[str, int]:
        """Keep what a command is given; its hash and size.

        :raises RunnerError: `limit_exceeded`: it is too much in all.
        """
        sha256 = hashlib.sha256(content).hexdigest()
        if sha256 not in self._contents:
            self._kept_bytes += len(content)
            if self._kept_bytes > KEPT_BYTES:
                raise RunnerError("limit_exceeded", name="input_bytes", limit=KEPT_BYTES)
            self._contents[sha256] = Kept(content)
        return sha256, len(content)

    def keep_output(self, content: bytes, truncated: bool) -> Optional[plans.Output]:
        """Keep what a command printed, as far as there is room; None for nothing."""
        room = max(0, KEPT_BYTES // 2 - self._kept_bytes)
        if len(content) > room:
            content, truncated = content[:room], True
        if not content and not truncated:
            return None
        return plans.Output(*self.keep(content), truncated)

    def add(self, step: plans.CommandStep) -> None:
        """A command that changes nothing was called.

        One denied is not told again and again: a shell tries every directory on PATH.

        :raises RunnerError: `limit_exceeded`: all commands together have too many words.
        """
        # Until the next barrier the last step is the last command that was reviewed.
        step = replace(step, called_after=len(self._steps) - 1 if self._steps else None)
        last = self._beside[-1] if self._beside else None
        if (
            last is not None
            and step.decision == last.decision == "deny"
            and (step.argv, step.cwd, step.called_after) == (last.argv, last.cwd, last.called_after)
        ):
            return
        self._count_words(step)
        self._beside.append(step)

    def barrier(self, step: plans.CommandStep) -> None:
        """A command comes next that will run: what the script has changed so far is before it.

        :raises RunnerError: `capture_failed` or `limit_exceeded`.
        """
        self._take(self._changes.barrier())
        self._count_words(step)
        self._steps.append(step)
        self._notes.append(plans.StepNote())

    def send(self, job: Channel, blocked: Sequence[plans.BlockedStep]) -> None:
        """Take what is left and send all as a plan; nothing of the sandbox runs any more.

        :raises RunnerError: `capture_failed`, `limit_exceeded` or `not_permitted`.
        """
        self._take(self._changes.finish(starting=job.flush))
        applied = apply_named(self._steps, self._request["scratch"])
        beside = sorted(self._beside, key=lambda step: step.decision == "deny")
        steps = (*applied, *beside, *blocked)
        notes = [*self._notes, *(plans.StepNote() for _ in steps[len(applied) :])]
        wanted = contents_of(steps)
        send_contents(
            job, {sha256: one for sha256, one in self._contents.items() if sha256 in wanted}
        )
        for index, found in holders(steps).items():
            notes[index] = replace(notes[index], holders=tuple(found))
        for index, paths in others(steps, self._who).items():
            notes[index] = replace(notes[index], others=tuple(paths))
        _send_plan(job, self._request, self._who, steps, notes, self._settings)
        check_permission(steps, self._who, replace(self._warm.floor, own=self._settings.hidden))

    def _count_words(self, step: plans.CommandStep) -> None:
        words = (*step.argv, *step.environment, *step.environment.values())
        self._word_bytes += sum(map(len, words))
        if self._word_bytes > WORD_BYTES:
            raise RunnerError("limit_exceeded", name="word_bytes", limit=WORD_BYTES)

    def _take(self, delta: Delta) -> None:
        self._steps.extend(delta.steps)
        self._notes.extend(delta.notes)
        for sha256, content in delta.contents.items():
            self._contents.setdefault(sha256, content)


class Kept:
    """A content in memory."""

    offset = 0

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.size = len(content)

    def read(self) -> bytes:
        """All of it."""
        return self._content

    def open(self) -> int:
        """A readable descriptor of it; the caller's."""
        descriptor = os.memfd_create("content", os.MFD_CLOEXEC)
        with open(descriptor, "wb", closefd=False) as file:
            file.write(self._content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor


def check_permission(steps: Sequence[object], who: plans.Identity, floor: Floor) -> None:
    """See that `who` may do all that is applied of `steps`.

    :raises RunnerError: `not_permitted`.
    """
    wanted = [step for step in steps if isinstance(step, plans.FileStep) and not step.scratch]
    refusal = first_refusal(wanted, who, protected_paths(floor)) if wanted else None
    if refusal is not None:
        raise not_permitted(who, refusal)


class Sendable(Protocol):
    """A content that is sent."""

    @property
    def size(self) -> int:
        """Its bytes."""

    @property
    def offset(self) -> int:
        """Where it begins in the file that `open` gives."""

    def read(self) -> bytes:
        """All of it."""

    def open(self) -> int:
        """A readable descriptor at its beginning; the caller's."""


def send_contents(job: Channel, contents: Mapping[str, Sendable]) -> None:
    """Send contents by their SHA-256: small ones many to a frame, large ones as a descriptor each.

    :raises Closed: nobody is there.
    """
    batch: List[List[object]] = []
    parts: List[bytes] = []
    size = 0

    def flush() -> None:
        nonlocal size
        if batch:
            job.hold({"event": "blobs", "blobs": batch}, b"".join(parts))
        batch.clear()
        parts.clear()
        size = 0

    for sha256, content in contents.items():
        if content.size > INLINE_BYTES:
            flush()
            descriptor = content.open()
            try:
                job.send(
                    {
                        "event": "blob",
                        "sha256": sha256,
                        "size": content.size,
                        "offset": content.offset,
                    },
                    descriptors=(descriptor,),
                )
            finally:
                os.close(descriptor)
            continue
        data = content.read()
        batch.append([sha256, len(data)])
        parts.append(data)
        size += len(data)
        if size >= BATCH_BYTES:
            flush()
    flush()


def _send_plan(
    job: Channel,
    request: Header,
    who: plans.Identity,
    steps: Sequence[object],
    notes: Sequence[plans.StepNote],
    settings: Settings,
) -> None:
    # A rehearsal has no state: its seal counts for nothing.
    secret = key(settings.state) if settings.state else b""
    plan = plans.Plan(
        session=request["session"],
        target={"kind": "local", "host": machine()},
        identity=who,
        policy_version=request["policy_version"],
        on_failure=request["on_failure"],
        steps=tuple(steps),
    )
    send_plan(job, plan, notes, secret)


def send_plan(job: Channel, plan: plans.Plan, notes: Sequence[object], secret: bytes) -> None:
    """Seal `plan` with `secret` and send it with what to show beside each of its steps.

    :raises RunnerError: `limit_exceeded`: it is too large.
    """
    encoded = plans.canonical(plan)
    digest = plans.digest(encoded)
    beside = json.dumps(notes, default=vars, separators=(",", ":")).encode("ascii")
    if len(encoded) + len(beside) > MAX_PAYLOAD_BYTES:
        raise RunnerError("limit_exceeded", name="plan_bytes", limit=MAX_PAYLOAD_BYTES)
    job.hold(
        {
            "event": "plan",
            "digest": digest,
            "seal": plans.seal(secret, plan.session, digest),
            "steps": len(plan.steps),
            "canonical_size": len(encoded),
            "notes_size": len(beside),
        },
        encoded + beside,
    )
