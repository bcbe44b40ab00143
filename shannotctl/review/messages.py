"""What the reviewer is told, and what it wants done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shannotctl.protocol import Event
from shannotd.wire.errors import ShannotError
from shannotd.wire.plan import Plan
from shannotd.wire.rollback import RollbackAnswer
from shannotd.wire.session import Session

# What happens.


@dataclass(frozen=True)
class Key:
    """A key: a character, or a name such as `enter`, `escape`, `pageup`, `c-d`."""

    name: str


@dataclass(frozen=True)
class Pasted:
    """Text that came as a paste: never a key."""

    text: str


@dataclass(frozen=True)
class Clicked:
    """The mouse's button on a row (from 0) and column of the screen."""

    row: int
    column: int


@dataclass(frozen=True)
class Scrolled:
    """The mouse's wheel: so many lines down."""

    lines: int


@dataclass(frozen=True)
class Drawn:
    """The screen shows the present state."""


@dataclass(frozen=True)
class Settled:
    """The question was on the screen for as long as it takes to see it."""


@dataclass(frozen=True)
class Resized:
    """The terminal has another size."""

    columns: int
    rows: int


@dataclass(frozen=True)
class Ticked:
    """It is `now`, in seconds since the epoch."""

    now: float


@dataclass(frozen=True)
class Connected:
    """The daemon answers; these are the sessions that it has: of those that are over, with
    `more`, only the newest."""

    where: str
    sessions: tuple[Session, ...]
    more: bool = False


@dataclass(frozen=True)
class Lost:
    """The daemon is gone, or was never there; or `refused`: it does not let him see more."""

    reason: str
    refused: bool = False


@dataclass(frozen=True)
class Happened:
    """The daemon told of an event."""

    event: Event


@dataclass(frozen=True)
class Loaded:
    """A session with its plan, and the contents of its commands."""

    session: Session
    plan: Plan | None
    contents: Mapping[str, bytes]


@dataclass(frozen=True)
class Approved:
    """An approval was taken; the session as it then was."""

    session: Session


@dataclass(frozen=True)
class Done:
    """Something else that was asked for was done; `text` says what."""

    text: str


@dataclass(frozen=True)
class Amended:
    """Another plan was made; it is that of this session."""

    session: Session


@dataclass(frozen=True)
class Reversing:
    """What came of asking for a rollback of session `id`."""

    id: str
    answer: RollbackAnswer


@dataclass(frozen=True)
class Edited:
    """A person has edited what a step writes."""

    id: str
    step: int
    content: bytes | None


@dataclass(frozen=True)
class Fetched:
    """A content that a step names; None where it is not kept."""

    id: str
    step: int
    which: str
    data: bytes | None


@dataclass(frozen=True)
class Failed:
    """What was asked for was not done."""

    effect: Effect
    error: ShannotError


Message = (
    Key
    | Pasted
    | Clicked
    | Scrolled
    | Drawn
    | Settled
    | Resized
    | Ticked
    | Connected
    | Lost
    | Happened
    | Loaded
    | Approved
    | Done
    | Amended
    | Reversing
    | Edited
    | Fetched
    | Failed
)

# What is wanted.


@dataclass(frozen=True)
class Load:
    """A session with all that is in it."""

    id: str


@dataclass(frozen=True)
class Follow:
    """What a session prints, from now on, instead of what another does."""

    id: str


@dataclass(frozen=True)
class Approve:
    """The plan with this digest."""

    id: str
    digest: str


@dataclass(frozen=True)
class Reject:
    """A plan, for good."""

    id: str
    reason: str


@dataclass(frozen=True)
class Cancel:
    """A dry run or an apply that goes on."""

    id: str


@dataclass(frozen=True)
class Amend:
    """Another plan without some steps, with other contents."""

    id: str
    digest: str
    drop: tuple[int, ...]
    edits: Mapping[int, bytes]
    with_dependents: bool = False


@dataclass(frozen=True)
class Rollback:
    """A plan that takes a session back; with `force` also what somebody changed since."""

    id: str
    force: bool = False


@dataclass(frozen=True)
class Edit:
    """What a step writes, in a person's editor; `content` where it was edited before."""

    session: Session
    plan: Plan
    step: int
    content: bytes | None


@dataclass(frozen=True)
class Fetch:
    """The content of a file, `before` or `after` a step."""

    session: Session
    step: int
    which: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Page:
    """Safe lines in a person's pager."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Copy:
    """Text to the terminal's clipboard."""

    text: str


@dataclass(frozen=True)
class Suspend:
    """Let the shell have the terminal until it calls us back."""


@dataclass(frozen=True)
class Redraw:
    """Draw all of the screen anew."""


@dataclass(frozen=True)
class Quit:
    """The end."""


Effect = (
    Load
    | Follow
    | Approve
    | Reject
    | Cancel
    | Amend
    | Rollback
    | Edit
    | Fetch
    | Page
    | Copy
    | Suspend
    | Redraw
    | Quit
)
