"""`shannotctl amend`: a pending plan without some of its steps, with other contents in others."""

from __future__ import annotations

import re
from collections.abc import Iterable

import click

from shannotctl.cli import report
from shannotctl.cli.arguments import session_id
from shannotctl.cli.console import Console
from shannotctl.cli.failure import json_option
from shannotctl.cli.outcome import DONE, PENDING
from shannotctl.cli.pending import pending_plan
from shannotctl.client import Client, Plan, Session
from shannotctl.contents import command_contents, written_content
from shannotctl.drafts import Drafts, read_content
from shannotd.wire.errors import EditTooLarge, ShannotError, UsageError
from shannotd.wire.rpc import MAX_EDIT_BYTES

_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")
_EDIT = re.compile(r"([0-9]{1,9})(?:=(.*))?", re.DOTALL)


@click.command()
@session_id
@click.option(
    "--drop", "drops", multiple=True, metavar="N[,N-M]", help="Leave out these steps (repeatable)."
)
@click.option(
    "--edit",
    "edits",
    multiple=True,
    metavar="N[=FILE]",
    help="Edit what step N writes ($VISUAL, $EDITOR), or take it from FILE (repeatable).",
)
@click.option("--with-dependents", is_flag=True, help="Leave out what cannot stay then, too.")
@json_option
def amend(
    id: str, drops: tuple[str, ...], edits: tuple[str, ...], with_dependents: bool, as_json: bool
) -> int:
    """Make another plan of a pending one: without some steps, with other contents in files.

    Steps have the numbers that `show` prints. The new plan is of a session of its own and waits
    for approval; the one before is rejected. Of an append what is appended is edited.
    """
    console = Console()
    dropped = [index for text in drops for index in _dropped(text)]
    wanted = dict(_edited(text) for text in edits)
    if len(wanted) < len(edits):
        raise UsageError(reason="--edit names a step twice")
    if not dropped and not wanted:
        raise UsageError(reason="give the steps to leave out (--drop) or to edit (--edit)")
    with Client() as client, Drafts() as drafts:
        session = client.get(id)
        plan = pending_plan(session, "changed")
        contents = _contents(client, console, drafts, session, plan, wanted)
        if not dropped and not contents:
            console.say(f"nothing was changed; session {session.id} is still pending")
            return PENDING
        try:
            new = client.amend(
                session.id,
                plan.digest,
                drop=dropped,
                edits=contents,
                with_dependents=with_dependents,
            )
        except ShannotError:
            kept = drafts.keep()
            if kept is not None:
                console.say(f"what you edited is kept in {kept}")
            raise
        _show(client, console, new, as_json)
    return DONE


def _contents(
    client: Client,
    console: Console,
    drafts: Drafts,
    session: Session,
    plan: Plan,
    wanted: dict[int, str | None],
) -> dict[int, bytes]:
    """The new contents of the steps in `wanted`, from files or an editor; not those that stay."""
    found: dict[int, bytes] = {}
    for index, file in wanted.items():
        if file is not None:
            found[index] = read_content(file)
            continue
        before = written_content(client, session, plan, index)
        after = drafts.edit(before, index + 1, plan.steps[index].path or "")
        if before and not after:
            console.say(
                f"step {index + 1} is left as it is, since the editor left an empty file"
                f" (--edit {index + 1}=/dev/null makes it empty)"
            )
        elif after == before:
            console.say(f"step {index + 1} is left as it is")
        else:
            found[index] = after
    size = sum(map(len, found.values()))
    if size > MAX_EDIT_BYTES:
        raise EditTooLarge(size=size, limit=MAX_EDIT_BYTES)
    return found


def _show(client: Client, console: Console, session: Session, as_json: bool) -> None:
    contents = command_contents(client, session)
    if as_json:
        import json

        from shannotctl.json_view import session_object

        console.print([json.dumps(session_object(session, contents))])
        return
    from shannotctl.render.command import View
    from shannotctl.render.session import session_lines

    console.print(session_lines(session, console.out_style, View(contents=contents)))
    console.note(report.pending_lines(session, console.error_style, None))
    if not client.embedded:
        console.say("somebody else has to approve it: who changes a plan counts as its submitter")


def _dropped(text: str) -> Iterable[int]:
    """The indexes in `2,4-6`, numbers from 1.

    :raises UsageError: there are none.
    """
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise UsageError(reason=f"--drop {text}: give numbers of steps, such as 2 or 2,4-6")
        first, last = int(match[1]), int(match[2] or match[1])
        if not 1 <= first <= last <= 1_000_000:
            raise UsageError(reason=f"--drop {text}: {part.strip()} is no range of steps")
        yield from range(first - 1, last)


def _edited(text: str) -> tuple[int, str | None]:
    """The index in `3` or `3=FILE`, and the file.

    :raises UsageError: there is none.
    """
    match = _EDIT.fullmatch(text)
    if match is None or int(match[1]) < 1 or match[2] == "":
        raise UsageError(reason=f"--edit {text}: give the number of a step, and maybe =FILE")
    return int(match[1]) - 1, match[2]
