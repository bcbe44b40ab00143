"""The reviewer as text: one session after the other, a question after each.

For screen readers, and for pipes, where nothing is asked. Nothing is drawn over.
"""

from __future__ import annotations

from collections.abc import Iterator

from shannotctl.cli import report
from shannotctl.cli.console import Console
from shannotctl.cli.decision import apply, confirmed
from shannotctl.cli.outcome import DONE, PENDING
from shannotctl.client import Client
from shannotctl.contents import command_contents
from shannotctl.protocol import plan_of
from shannotctl.render.amounts import number
from shannotctl.render.command import View
from shannotctl.render.session import session_lines
from shannotctl.render.style import Style
from shannotctl.review.list_view import chosen
from shannotctl.review.spans import plain
from shannotctl.review.state import Listing
from shannotctl.review.warnings import warnings
from shannotd.wire.errors import ShannotError
from shannotd.wire.plan import Plan
from shannotd.wire.session import Session, State
from shannotd.wire.text import visible

_QUESTION = "approve, reject, skip or quit? "


def review_plainly(console: Console, id: str | None) -> int:
    """Print what waits, the highest risk first, and ask what to do with each; the exit status."""
    asking = console.in_is_terminal and console.out_is_terminal
    with Client() as client:
        waiting = [client.get(id).id] if id is not None else _waiting(client)
        if not waiting:
            console.print(["Nothing waits for a decision."])
            return DONE
        left = 0
        for position, one in enumerate(waiting, 1):
            session = client.get(one)
            console.print(_lines(client, session, f"Session {position} of {len(waiting)}"))
            console.flush()
            if session.state is not State.PENDING:
                continue
            if not asking:
                left += 1
                console.print(_how(session))
                continue
            answer = _decided(console, client, session)
            if answer == "quit":
                return PENDING
            left += answer == "skip"
    if left:
        console.say(f"{number(left, 'session')} still {'waits' if left == 1 else 'wait'}")
    return PENDING if left else DONE


def _waiting(client: Client) -> list[str]:
    pending = {session.id: session for session in client.list(states=[State.PENDING])}
    return [session.id for session in chosen(pending, Listing())]


def _lines(client: Client, session: Session, title: str) -> Iterator[str]:
    plan = plan_of(session)
    # Risk and warnings come first, in words.
    risk = session.risk.value if session.risk is not None else "unknown"
    yield f"{title}: risk {risk}"
    if plan is not None:
        for line in warnings(session, plan, Style()):
            yield plain(line)
    yield from session_lines(
        session, Style(), View(whole=True, contents=command_contents(client, session))
    )
    yield ""


def _how(session: Session) -> list[str]:
    identifier = visible(session.id)
    plan: Plan | None = plan_of(session)
    digest = "?" if plan is None else plan.digest
    return [
        f"approve: shannotctl approve {identifier} --yes --digest {digest}",
        f"reject: shannotctl reject {identifier} --reason TEXT",
        "",
    ]


def _decided(console: Console, client: Client, session: Session) -> str:
    """What a person wants done with the session, once it is done."""
    while True:
        answer = console.ask(_QUESTION).lower()
        if answer in ("quit", "q", ""):
            # The end of the input reads as an empty line, too.
            return "quit"
        if answer in ("skip", "s"):
            return "skip"
        try:
            if answer in ("reject", "r"):
                reason = console.ask("Why (the submitter sees it; may be empty): ")
                report.ended(console, client.reject(session.id, reason))
                return "done"
            if answer in ("approve", "a"):
                plan = plan_of(session)
                if plan is None or not confirmed(console, session, plan):
                    console.say("not approved; the session is still pending")
                    continue
                report.ended(console, apply(client, console, session, plan, ""))
                return "done"
        except ShannotError as error:
            console.say(str(error))
            return "skip"
        console.say("type one of these words, or its first letter")
