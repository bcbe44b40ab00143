"""One submission on the command line: output while it runs, then its plan or its result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from shannotctl.cli.console import Console
from shannotctl.client import Client, Event, Output, Session, State, StepApplied
from shannotctl.contents import command_contents
from shannotd.wire.errors import ShannotError, WrongState
from shannotd.wire.session import FINAL_STATES
from shannotd.wire.submission import Submission

_ID_SECONDS = 3.0  # for the daemon to say what an interrupted submission became


class SubmissionRun:
    """Carries one script from submission to the end that the user wants to see."""

    def __init__(self, console: Console, *, as_json: bool) -> None:
        self._console = console
        self._as_json = as_json
        self._printed = {"stdout": 0, "stderr": 0}
        self._started = time.monotonic()
        self._doing = "dry run"
        watched = console.error_is_terminal and not as_json
        self._client = Client(on_idle=self._show_progress if watched else None)

    def run(self, submission: Submission, *, wait: bool) -> Session:
        """Submit and show; with `wait`, until the session has ended."""
        with self._client as client:
            try:
                session = client.submit(submission, None if self._as_json else self._print)
            except KeyboardInterrupt:
                self._cancel()
                raise
            if session.state is State.PENDING and session.plan_canonical is None:
                session = client.get(session.id)
            if not self._as_json:
                self._show_dry_run(session)
            if wait and session.state not in FINAL_STATES:
                session = self._await_end(session)
                while session.replaced_by is not None:
                    session = self._await_end(client.get(session.replaced_by))
            if self._as_json:
                self._print_json(session, command_contents(client, session))
            return session

    def _print(self, output: Output) -> None:
        self._printed[output.stream] = self._printed.get(output.stream, 0) + len(output.data)
        self._console.script_output(output.stream, output.data)

    def _show_dry_run(self, session: Session) -> None:
        for stream, data, lost in (
            ("stdout", session.stdout, session.stdout_truncated),
            ("stderr", session.stderr, session.stderr_truncated),
        ):
            rest = data[self._printed[stream] :]
            if rest:
                self._console.script_output(stream, rest)
            if lost:
                name = "standard output" if stream == "stdout" else "standard error"
                self._console.say(f"{lost:,} more bytes of the script's {name} were not kept")
        self._console.clear_progress()
        if session.state is State.EXECUTED and not session.exit_code and session.signal is None:
            return
        from shannotctl.cli import report

        shown = session.state is State.PENDING and self._console.error_is_terminal
        contents = command_contents(self._client, session) if shown else {}
        report.dry_run_ended(self._console, session, contents)

    def _await_end(self, session: Session) -> Session:
        self._doing = f"waiting for a decision on {session.id}"
        self._started = time.monotonic()
        if not self._as_json:
            self._client.subscribe(session.id)
        try:
            self._client.wait(session.id, on_event=None if self._as_json else self._follower())
        except KeyboardInterrupt:
            if self._as_json:
                self._print_json(session)
            raise
        ended = self._client.get(session.id)
        if not self._as_json:
            from shannotctl.cli import report

            report.ended(self._console, ended)
        return ended

    def _follower(self) -> Callable[[Event], None]:
        from shannotctl.render.printed import PrintedLines

        console, printed = self._console, PrintedLines()

        def follow(event: Event) -> None:
            lines = list(printed.lines(event, console.error_style))
            if lines:
                console.note(lines)
            if isinstance(event, StepApplied):
                console.progress(f"applied step {event.step + 1}")

        return follow

    def _show_progress(self) -> None:
        seconds = time.monotonic() - self._started
        if seconds >= 1:
            self._console.progress(f"{self._doing}, {seconds:.0f} s")

    def _cancel(self) -> None:
        """Stop what was interrupted; the connection that waits for it cannot be used."""
        self._console.clear_progress()
        identifier = self._client.interrupted(_ID_SECONDS)
        if identifier is None:
            return
        try:
            with Client(start=False) as client:
                try:
                    session = client.cancel(identifier)
                except WrongState:  # it has ended meanwhile
                    session = client.get(identifier)
        except ShannotError:
            return  # the daemon has ended, and with it the dry run
        if self._as_json:
            self._print_json(session)
        else:
            from shannotctl.cli import report

            report.ended(self._console, session)

    def _print_json(self, session: Session, contents: Mapping[str, bytes] | None = None) -> None:
        import json

        from shannotctl.json_view import session_object

        self._console.print([json.dumps(session_object(session, contents))])
