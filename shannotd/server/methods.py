"""The methods that a client may call: parameters checked, rights checked, answered."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from shannotd.audit.log import AuditLog
from shannotd.server.accounts import Accounts
from shannotd.server.explain import explain
from shannotd.server.peers import Peer, account_name
from shannotd.server.presence import Action, Person, Presence
from shannotd.server.standing import Standing
from shannotd.sessions.access import Caller, Role, is_own, not_served, require_reverser
from shannotd.sessions.amending import Changes, Edit
from shannotd.sessions.amendments import Amendments
from shannotd.sessions.approval import Approvals
from shannotd.sessions.checkpoints import Checkpoints
from shannotd.sessions.events import Decided, Event, Output, change_of
from shannotd.sessions.lookup import Lookup
from shannotd.sessions.manager import Sessions
from shannotd.sessions.plans import whole_session
from shannotd.sessions.refusal import Refusals
from shannotd.sessions.reversing import Force
from shannotd.sessions.rollbacks import Rollbacks, Wanted
from shannotd.sessions.store import Store
from shannotd.wire.decode import decode, encode
from shannotd.wire.errors import InvalidRequest, UnknownMethod
from shannotd.wire.session import State
from shannotd.wire.status import DaemonStatus
from shannotd.wire.submission import Submission

Params = TypeVar("Params")

MAX_CONTENT_BYTES = 1024 * 1024
_DEFAULT_PAGE, _LARGEST_PAGE = 50, 500
_DEFAULT_TAIL, _LARGEST_TAIL = 50, 10_000
_MAX_REASON_CHARACTERS = 4096
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Client(Person, Protocol):
    """The connection that a call came over; `caller` has the roles as last looked at."""

    caller: Caller

    @property
    def peer(self) -> Peer:
        """Who is at the other end, as the kernel or the bus says."""

    def listen(
        self, wanted: Callable[[Event], bool], *, others: bool = False
    ) -> Callable[[], None]:
        """Send it the events that are `wanted`, until the result is called or it closes.

        :param others: it may see sessions of others among them; when it may not any more, it is
            told so, and closed.
        """

    def tell(self, event: Event) -> None:
        """Send it one event."""


@dataclass(frozen=True)
class NoParams:
    """No parameters."""


@dataclass(frozen=True)
class SessionId:
    """One session."""

    id: str


@dataclass(frozen=True)
class ListParams:
    """Of `sessions.list`."""

    states: tuple[State, ...] = ()
    name: str | None = None
    limit: int = _DEFAULT_PAGE
    cursor: str | None = None


@dataclass(frozen=True)
class ApproveParams:
    """Of `sessions.approve`."""

    id: str
    digest: str
    comment: str | None = None


@dataclass(frozen=True)
class RejectParams:
    """Of `sessions.reject`."""

    id: str
    reason: str | None = None


@dataclass(frozen=True)
class AmendParams:
    """Of `sessions.amend`."""

    id: str
    digest: str
    drop: tuple[int, ...] = ()
    edits: tuple[Edit, ...] = ()
    with_dependents: bool = False


@dataclass(frozen=True)
class RollbackParams:
    """Of `sessions.rollback`."""

    id: str
    dry_run: bool = False
    force: tuple[str, ...] = ()
    force_all: bool = False


@dataclass(frozen=True)
class WatchParams:
    """Of `sessions.watch`."""

    id: str | None = None


@dataclass(frozen=True)
class WaitParams:
    """Of `sessions.wait`."""

    id: str
    states: tuple[State, ...] = field(default=())
    timeout: float | None = None


@dataclass(frozen=True)
class ContentParams:
    """Of `blobs.get`."""

    id: str
    sha256: str
    offset: int = 0
    length: int = MAX_CONTENT_BYTES


@dataclass(frozen=True)
class TailParams:
    """Of `audit.tail`."""

    limit: int = _DEFAULT_TAIL
    session: str | None = None


@dataclass(frozen=True)
class ExplainParams:
    """Of `policy.explain`."""

    argv: tuple[str, ...]
    cwd: str = "/"
    profile: str | None = None


@dataclass(frozen=True)
class Method:
    """How one method is called: its parameters' type, whether it ends with its client, and
    whether its answer may be large, so that one client gets one of them at a time."""

    params: type[Any]
    call: Callable[[Client, Any], Awaitable[object]]
    ends_with_client: bool = False
    large: bool = False


class Methods:
    """All methods, over the parts of the daemon that answer them."""

    def __init__(
        self,
        sessions: Sessions,
        approvals: Approvals,
        amendments: Amendments,
        rollbacks: Rollbacks,
        checkpoints: Checkpoints,
        store: Store,
        audit: AuditLog,
        status: Callable[[], Awaitable[DaemonStatus]],
        standing: Standing,
        presence: Presence,
    ) -> None:
        self._sessions = sessions
        self._lookup = Lookup(sessions.registry)
        self._refusals = Refusals(sessions.registry)
        self._approvals = approvals
        self._amendments = amendments
        self._rollbacks = rollbacks
        self._checkpoints = checkpoints
        self._store = store
        self._audit = audit
        self._status = status
        self._standing = standing
        self._presence = presence
        self._accounts = Accounts()
        self._names: dict[int, asyncio.Task[str]] = {}
        self._methods: Mapping[str, Method] = {
            "daemon.status": Method(NoParams, self._daemon_status),
            "sessions.submit": Method(Submission, self._submit),
            "sessions.list": Method(ListParams, self._list, large=True),
            "sessions.get": Method(SessionId, self._get, large=True),
            "sessions.approve": Method(ApproveParams, self._approve),
            "sessions.reject": Method(RejectParams, self._reject),
            "sessions.amend": Method(AmendParams, self._amend, large=True),
            "sessions.rollback": Method(RollbackParams, self._roll_back, large=True),
            "sessions.cancel": Method(SessionId, self._cancel),
            "sessions.watch": Method(WatchParams, self._watch),
            "sessions.wait": Method(WaitParams, self._wait, ends_with_client=True),
            "blobs.get": Method(ContentParams, self._content, large=True),
            "checkpoints.list": Method(NoParams, self._list_checkpoints, large=True),
            "checkpoints.get": Method(SessionId, self._get_checkpoint, large=True),
            "checkpoints.drop": Method(SessionId, self._drop_checkpoint),
            "audit.tail": Method(TailParams, self._tail, large=True),
            "audit.verify": Method(NoParams, self._verify),
            "policy.explain": Method(ExplainParams, self._explain),
        }

    def find(self, name: str) -> Method:
        """The method of that name.

        :raises UnknownMethod: there is none.
        """
        method = self._methods.get(name)
        if method is None:
            raise UnknownMethod(method=name[:100])
        return method

    async def call(
        self, client: Client, name: str, method: Method, params: Mapping[str, object]
    ) -> object:
        """What `method` answers; plain maps and lists, ready to travel.

        :raises NotAllowed: the client has no role any more.
        :raises ShannotError: what went wrong.
        """
        client.caller = await self._standing.look(client.peer)
        if not client.caller.roles:
            raise not_served(client.caller)
        try:
            checked = decode(method.params, params, "params")
        except ValueError as error:
            raise InvalidRequest(method=name, reason=str(error)) from None
        return await method.call(client, checked)

    async def _daemon_status(self, client: Client, params: NoParams) -> object:
        status = await self._status()
        return encode(replace(status, roles=tuple(sorted(client.caller.roles))))

    async def _submit(self, client: Client, params: Submission) -> object:
        name = await self._account_name(client.caller.uid)
        session, ended = await self._sessions.submit(client.caller, name, params)
        if not params.wait:
            return encode(session)
        identifier = session.id
        end = client.listen(lambda event: isinstance(event, Output) and event.session == identifier)
        try:
            await asyncio.sleep(0)  # the script begins before the client has something to do
            client.tell(change_of(session))
            return whole_session(await asyncio.shield(ended))
        finally:
            end()

    async def _list(self, client: Client, params: ListParams) -> object:
        if not 1 <= params.limit <= _LARGEST_PAGE:
            raise _invalid("sessions.list", f"limit: must be 1 to {_LARGEST_PAGE}")
        before = None
        if params.cursor is not None:
            if not re.fullmatch(r"[0-9]{1,18}", params.cursor):
                raise _invalid("sessions.list", "cursor: is none that a page gave")
            before = int(params.cursor)
        page = await self._lookup.page(
            client.caller,
            states=params.states,
            name=params.name,
            limit=params.limit,
            before=before,
        )
        return {"sessions": page.sessions, "total": page.total, "next": page.next}

    async def _get(self, client: Client, params: SessionId) -> object:
        return await self._lookup.get(await self._lookup.find(client.caller, params.id))

    async def _approve(self, client: Client, params: ApproveParams) -> object:
        identifier = await self._lookup.find(client.caller, params.id)
        comment = _bounded("sessions.approve", "comment", params.comment)
        proven = await self._prove(client, identifier, params.digest)
        # Only now: a proof may have taken its time.
        caller = replace(await self._looked_up(client), proven=proven)
        await self._approvals.approve(caller, identifier, params.digest, comment)
        return await self._lookup.get(identifier)

    async def _reject(self, client: Client, params: RejectParams) -> object:
        identifier = await self._lookup.find(client.caller, params.id)
        reason = _bounded("sessions.reject", "reason", params.reason)
        await self._refusals.reject(client.caller, identifier, reason)
        return await self._lookup.get(identifier)

    async def _amend(self, client: Client, params: AmendParams) -> object:
        identifier = await self._lookup.find(client.caller, params.id)
        if len({edit.index for edit in params.edits}) < len(params.edits):
            raise _invalid("sessions.amend", "edits: one step has two contents")
        caller = await self._looked_up(client)
        name = await self._account_name(caller.uid)
        changes = Changes(params.drop, params.edits, params.with_dependents)
        new = await self._amendments.amend(caller, name, identifier, params.digest, changes)
        return await self._lookup.get(new)

    async def _roll_back(self, client: Client, params: RollbackParams) -> object:
        identifier = await self._lookup.find(client.caller, params.id)
        if not params.dry_run and not client.caller.embedded:
            require_reverser(client.caller, identifier)
            session = await self._lookup.summary(identifier)
            await self._presence.ask(client, Action.ROLLBACK, session)
        caller = await self._looked_up(client)
        wanted = Wanted(Force(params.force, params.force_all), params.dry_run)
        answer = await self._rollbacks.roll_back(caller, identifier, wanted)
        return {"session": answer.session, "conflicts": encode(answer.conflicts)}

    async def _list_checkpoints(self, client: Client, params: NoParams) -> object:
        return encode(await self._checkpoints.all(client.caller))

    async def _get_checkpoint(self, client: Client, params: SessionId) -> object:
        identifier = await self._lookup.find(client.caller, params.id)
        return encode(await self._checkpoints.get(client.caller, identifier))

    async def _drop_checkpoint(self, client: Client, params: SessionId) -> object:
        identifier = await self._lookup.find(client.caller, params.id)
        await self._checkpoints.drop(await self._looked_up(client), identifier)
        return {}

    async def _cancel(self, client: Client, params: SessionId) -> object:
        identifier = await self._lookup.find(client.caller, params.id)
        await self._refusals.cancel(client.caller, identifier)
        return await self._lookup.get(identifier)

    async def _watch(self, client: Client, params: WatchParams) -> object:
        # What of it the client may see is decided when it is sent.
        if params.id is not None:
            identifier = await self._lookup.find(client.caller, params.id)
            session = await self._lookup.summary(identifier)
            others = session.submitter != client.caller.uid
            client.listen(lambda event: event.session == identifier, others=others)
        else:
            # The output and the calls of every session would drown who watches them all.
            others = client.caller.sees_all
            client.listen(lambda event: not isinstance(event, Output | Decided), others=others)
        return {}

    async def _wait(self, client: Client, params: WaitParams) -> object:
        if params.timeout is not None and not 0 <= params.timeout < 1e9:
            raise _invalid("sessions.wait", "timeout: must be a number of seconds")
        identifier = await self._lookup.find(client.caller, params.id)
        await self._lookup.wait(identifier, frozenset(params.states), params.timeout)
        client.caller = await self._standing.look(client.peer)
        identifier = await self._lookup.find(client.caller, identifier)  # if he still may see it
        return await self._lookup.get(identifier)

    async def _content(self, client: Client, params: ContentParams) -> object:
        if not _SHA256.fullmatch(params.sha256):
            raise _invalid("blobs.get", "sha256: must be 64 hexadecimal digits")
        if params.offset < 0 or not 0 <= params.length <= MAX_CONTENT_BYTES:
            raise _invalid("blobs.get", f"length: must be 0 to {MAX_CONTENT_BYTES}")
        identifier = await self._lookup.find(client.caller, params.id)
        content = await self._lookup.content(client.caller, identifier, params.sha256)
        if content is None:
            raise _invalid("blobs.get", "sha256: no such content belongs to that session")
        if content.descriptor is None:
            data = (content.data or b"")[params.offset : params.offset + params.length]
            return {"data": data, "size": content.size}
        descriptor = content.descriptor
        try:
            data = await self._store.run(
                lambda: os.pread(descriptor, params.length, min(params.offset, content.size))
            )
        finally:
            os.close(descriptor)
        return {"data": data, "size": content.size}

    async def _tail(self, client: Client, params: TailParams) -> object:
        client.caller.require(Role.AUDIT, "read the audit log")
        if not 1 <= params.limit <= _LARGEST_TAIL:
            raise _invalid("audit.tail", f"limit: must be 1 to {_LARGEST_TAIL}")
        session = params.session
        if session is not None:
            # The log tells of all sessions: who may read it may also choose one of them.
            session = await self._lookup.find(client.caller, session, of_all=True)
        await self._lookup.flush_log()
        records = await self._store.run(lambda: self._audit.tail(params.limit, session))
        return encode(records)

    async def _verify(self, client: Client, params: NoParams) -> object:
        client.caller.require(Role.AUDIT, "verify the audit log")
        await self._lookup.flush_log()
        return encode(await self._store.run(self._audit.verify))

    async def _explain(self, client: Client, params: ExplainParams) -> object:
        profile = self._sessions.profile(params.profile)
        try:
            return encode(await self._store.run(lambda: explain(params.argv, params.cwd, profile)))
        except ValueError as error:
            raise _invalid("policy.explain", str(error)) from None

    async def _prove(self, client: Client, identifier: str, digest: str) -> bool:
        """Have the caller prove that he is there, as far as his approval needs that; whether he did
        so for a plan of his own.

        :raises NotAllowed, DigestMismatch, WrongState: he could prove what he wants, and may not.
        :raises AuthenticationNeeded, AuthenticationRefused, AuthenticationUnavailable: he did not.
        """
        if client.caller.embedded:
            return False
        session = self._approvals.check(replace(client.caller, proven=True), identifier, digest)
        if session is None:
            return False
        if is_own(client.caller, session):
            return await self._presence.ask(client, Action.APPROVE_OWN, session)
        await self._presence.ask(client, Action.APPROVE, session)
        return False

    async def _looked_up(self, client: Client) -> Caller:
        """The caller with the roles that he has at this very moment."""
        client.caller = await self._standing.look(client.peer, anew=True)
        return client.caller

    async def _account_name(self, uid: int) -> str:
        """The name of an account, looked up once; that holds up nobody else."""
        naming = self._names.get(uid)
        if naming is None:
            looking = self._accounts.ask(lambda: account_name(uid))
            naming = self._names[uid] = asyncio.get_running_loop().create_task(looking)
        try:
            return await asyncio.shield(naming)
        except Exception:
            self._names.pop(uid, None)  # whoever is next asks again
            raise


def _invalid(method: str, reason: str) -> InvalidRequest:
    return InvalidRequest(method=method, reason=reason)


def _bounded(method: str, name: str, text: str | None) -> str:
    if text is not None and len(text) > _MAX_REASON_CHARACTERS:
        raise _invalid(method, f"{name}: more than {_MAX_REASON_CHARACTERS} characters")
    return text or ""
