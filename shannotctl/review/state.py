"""What the reviewer knows and shows, as values that are never changed in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from shannotctl.render.plan import highest_risk
from shannotd.wire.decision import Risk
from shannotd.wire.plan import Plan
from shannotd.wire.session import Session, State

ACTIVE = (State.RUNNING, State.PENDING, State.APPROVED, State.EXECUTING)


class Kind(StrEnum):
    """What fills the screen."""

    LIST = "list"
    SESSION = "session"
    DIFF = "diff"
    CONTENT = "content"
    HELP = "help"


class Shown(StrEnum):
    """Which sessions the list has."""

    PENDING = "pending"
    ACTIVE = "not over"
    OVER = "over"
    ALL = "all"


class Order(StrEnum):
    """What the list is sorted by."""

    RISK = "risk"
    AGE = "age"


class Link(StrEnum):
    """How it stands with the daemon."""

    CONNECTING = "connecting"
    UP = "connected"
    LOST = "lost"


@dataclass(frozen=True)
class Place:
    """A view and where one is in it.

    The cursor is on line `offset` of `item`, which is at line `row` of the view: so it stays where
    it is when lines come or go elsewhere. `left` is the first column, where lines are not folded.
    `drawn` says that it has been on the screen, `read` how many of its lines were.
    """

    kind: Kind
    item: str = ""
    offset: int = 0
    row: int = 0
    left: int = 0
    step: int = 0
    drawn: bool = False
    read: int = 0


@dataclass(frozen=True)
class Piece:
    """What a command printed on one stream, in one go or several."""

    stream: str
    data: bytes


@dataclass(frozen=True)
class Live:
    """What is known of a run or an apply while it goes on, beside what the session has.

    `printed` are the last pieces of what the commands printed, by step; -1 is the script itself.
    `lost` says of how many bytes before them nothing is kept here.
    """

    applied: Mapping[int, str] = field(default_factory=dict)
    printed: Mapping[int, tuple[Piece, ...]] = field(default_factory=dict)
    lost: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Opened:
    """The session that is looked at.

    `contents` are those of its commands. `toggled` are the items that are folded or unfolded other
    than by default, `dropped` and `edits` what is to be changed of the plan, `seen` the steps of
    which all was on the screen, `read` how many lines of each were.
    """

    session: Session
    plan: Plan | None
    contents: Mapping[str, bytes] = field(default_factory=dict)
    toggled: frozenset[str] = frozenset()
    dropped: frozenset[int] = frozenset()
    edits: Mapping[int, bytes] = field(default_factory=dict)
    seen: frozenset[int] = frozenset()
    read: Mapping[int, int] = field(default_factory=dict)
    live: Live = Live()

    @property
    def risk(self) -> Risk:
        """The highest risk of what is displayed, whatever the daemon says of the whole."""
        risks = [risk for risk in (self.session.risk,) if risk is not None]
        if self.plan is not None:
            risks.append(highest_risk(self.plan))
        return max(risks, key=lambda risk: risk.rank, default=Risk.UNKNOWN)

    @property
    def changed(self) -> bool:
        """Whether another plan is to be made of this one."""
        return bool(self.dropped or self.edits)


@dataclass(frozen=True)
class Field:
    """A line of text that is being typed."""

    text: str = ""
    cursor: int = 0


class Ask(StrEnum):
    """What a panel asks."""

    APPROVE = "approve"
    DANGER = "danger"
    REJECT = "reject"
    SEARCH = "search"
    FILTER = "filter"
    AMEND = "amend"
    DEPENDENTS = "dependents"
    DISCARD = "discard"
    ROLLBACK = "rollback"
    FORCE = "force"
    CANCEL = "cancel"
    MESSAGE = "message"


@dataclass(frozen=True)
class Panel:
    """A question or a message below the view.

    `ids` are the sessions and `digest` the plan that the answer is about: those that were shown
    when it was asked. Keys count only once it was `drawn`; what has a plan applied, only once it
    was there long enough to be seen.
    """

    ask: Ask
    field: Field = Field()
    ids: tuple[str, ...] = ()
    digest: str = ""
    text: tuple[str, ...] = ()
    drawn: bool = False
    top: int = 0


# What nobody answers by accident: not by keys that were typed ahead, nor by text that was pasted
# into a terminal which does not tell that it is pasted, and comes in pieces.
SETTLING = (Ask.APPROVE, Ask.DANGER, Ask.FORCE)


@dataclass(frozen=True)
class Content:
    """A file's content that was fetched for being looked at."""

    step: int
    which: str
    path: str
    data: bytes | None
    hex: bool = False


@dataclass(frozen=True)
class Listing:
    """How the list is narrowed and sorted, and what is chosen in it."""

    shown: Shown = Shown.PENDING
    order: Order = Order.RISK
    text: str = ""
    selected: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Review:
    """Everything: what the screen shows is a function of it.

    `older` says that there are more sessions that are over than those in `sessions`.
    """

    columns: int = 80
    rows: int = 24
    now: float = 0.0
    link: Link = Link.CONNECTING
    trouble: str = ""
    refused: bool = False  # by a daemon that is there
    where: str = ""
    sessions: Mapping[str, Session] = field(default_factory=dict)
    older: bool = False
    listing: Listing = Listing()
    places: tuple[Place, ...] = (Place(Kind.LIST),)
    opened: Opened | None = None
    opening: str = ""
    content: Content | None = None
    panel: Panel | None = None
    notice: str = ""
    busy: str = ""
    search: str = ""
    queue: tuple[str, ...] = ()
    side: bool | None = None
    wrap: bool = True
    mouse: bool = True

    @property
    def place(self) -> Place:
        """Where one is."""
        return self.places[-1]

    def at(self, place: Place) -> Review:
        """The same, elsewhere in the view."""
        return replace(self, places=(*self.places[:-1], place))

    def entered(self, place: Place) -> Review:
        """Another view on top of this one."""
        return replace(self, places=(*self.places, place), notice="")

    def left(self) -> Review:
        """Back to the view before."""
        return replace(self, places=self.places[:-1] or self.places, notice="")


def unread(review: Review) -> Review:
    """The same where lines are laid out anew: how many were read says nothing of the new ones.

    What was seen as a whole stays seen.
    """
    places = tuple(replace(place, read=0) for place in review.places)
    opened = None if review.opened is None else replace(review.opened, read={})
    return replace(review, places=places, opened=opened)
