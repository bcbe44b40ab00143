"""One submission on the command line: output while it runs, then its plan or its result."""

from __future__ import annotations

import os
import time

from shannotctl.cli.console import Console
from shannotctl.client import Client, Event, Output, Session, State, StepApplied
from shannotd.wire.errors import ShannotError
from shannotd.wire.model import FINAL_STATES, Submission


class SubmissionRun:
    """Carries one script from submission to the end that the user wants to see."""

    def __init__(self, console: Console, *, as_json: bool) -> None:
        self._console = console
        self._as_json = as_json
        self._printed = {"stdout": 0, "stderr": 0}
        self._started = time.monotonic()
        self._submitted = time.time()
        self._doing = "dry run"
        watched = console.error_is_terminal and not as_json
        self._client = Client(on_idle=self._show_progress if watched else None)

    def run(self, submission: Submission, *, wait: bool) -> Session:
        """Submit and show; with `wait`, until the session has ended."""
        with self._client as client:
            try:
                session = client.submit(submission, None if self._as_json else self._print)
            except KeyboardInterrupt:
                self._cancel(submission)
                raise
            if session.state is State.PENDING and session.plan_canonical is None:
                session = client.get(session.id)
            if not self._as_json:
                self._show_dry_run(session)
            if wait and session.state not in FINAL_STATES:
                session = self._await_end(session)
            if self._as_json:
                self._print_json(session)
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

        report.dry_run_ended(self._console, session)

    def _await_end(self, session: Session) -> Session:
        self._doing = f"waiting for a decision on {session.id}"
        self._started = time.monotonic()
        if not self._as_json:
            self._client.subscribe(session.id)
        self._client.wait(session.id, on_event=self._follow)
        ended = self._client.get(session.id)
        if not self._as_json:
            from shannotctl.cli import report

            report.ended(self._console, ended)
        return ended

    def _follow(self, event: Event) -> None:
        if isinstance(event, StepApplied):
            self._console.progress(f"applied step {event.step + 1}")

    def _show_progress(self) -> None:
        seconds = time.monotonic() - self._started
        if seconds >= 1:
            self._console.progress(f"{self._doing}, {seconds:.0f} s")

    def _cancel(self, submission: Submission) -> None:
        """Stop what was interrupted; the connection that waits for it cannot be used."""
        self._console.clear_progress()
        known = self._client.last_session
        self._client.close()
        try:
            with Client(start=False) as client:
                running = [known] if known is not None else self._find(client, submission)
                if len(running) == 1:
                    client.cancel(running[0])
        except ShannotError:
            # It has ended meanwhile, or the daemon has: nothing is left to be stopped.
            return
        if len(running) > 1:
            self._console.say(
                "several sessions like this one are running: see `shannotctl list --state running`"
            )

    def _find(self, client: Client, submission: Submission) -> list[str]:
        """The sessions that may be this submission, of which no word has come yet."""
        return [
            session.id
            for session in client.list(states=[State.RUNNING])
            if session.created_at >= self._submitted
            and session.submitter == os.geteuid()
            and session.kind is submission.kind
            and session.cwd == submission.cwd
            and session.arguments == submission.arguments
        ]

    def _print_json(self, session: Session) -> None:
        import json

        from shannotctl.json_view import session_object

        self._console.print([json.dumps(session_object(session))])
