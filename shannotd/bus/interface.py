"""What is offered on D-Bus: the interface, and how our values travel there.

D-Bus strings are UTF-8 without a NUL, so names and reasons are escaped as for a screen; what
must be exact (script, outputs, the plan) travels as bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from shannotd.wire.errors import ShannotError
from shannotd.wire.text import visible

NAME = "org.shannot.Shannot1"
PATH = "/org/shannot/Shannot1"
INTERFACE = "org.shannot.Shannot1.Manager"

_DOC = "org.gtk.GDBus.DocString"


def _argument(direction: str, name: str, signature: str, text: str) -> str:
    way = f' direction="{direction}"' if direction else ""
    doc = f'<annotation name="{_DOC}" value="{text}"/>'
    return f'<arg name="{name}" type="{signature}"{way}>{doc}</arg>'


def _into(name: str, signature: str, text: str) -> str:
    return _argument("in", name, signature, text)


def _out(name: str, signature: str, text: str) -> str:
    return _argument("out", name, signature, text)


def _member(kind: str, name: str, text: str, *arguments: str, more: str = "") -> str:
    doc = f'<annotation name="{_DOC}" value="{text}"/>'
    return f'<{kind} name="{name}"{more}>{doc}{"".join(arguments)}</{kind}>'


_ID = _into("id", "s", "Id of a session, or a beginning of it that no other has")
_STATE = _out("state", "s", "The state of the session now")
_READ = ' access="read"'
_NOT_TOLD = '<annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="false"/>'
_CONSTANT = '<annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="const"/>'

XML = "".join(
    (
        f'<node><interface name="{INTERFACE}">',
        _member(
            "method",
            "ListSessions",
            "Sessions that you may see, newest first",
            _into("states", "as", "Only those in one of these states; empty: all"),
            _into("limit", "u", "How many at most, 1 to 500"),
            _out("sessions", "aa{sv}", "What GetSession answers, without contents"),
        ),
        _member(
            "method",
            "GetSession",
            "One session with its script and outputs",
            _ID,
            _out("session", "a{sv}", "Its fields by name, as in docs/dbus.md"),
        ),
        _member(
            "method",
            "GetPlan",
            "The plan of a session",
            _ID,
            _out(
                "canonical",
                "ay",
                "The plan (JSON); its SHA-256 is the digest to approve by",
            ),
            _out("notes", "s", "Of each step: risk, reason, diff, ... (a JSON list)"),
        ),
        _member(
            "method",
            "Approve",
            "Approve exactly the plan that was displayed",
            _ID,
            _into("digest", "s", "SHA-256 (hexadecimal) of the plan that was displayed"),
            _into("comment", "s", "Why, for the audit log"),
            _STATE,
        ),
        _member(
            "method",
            "Reject",
            "Refuse a pending plan for good",
            _ID,
            _into("reason", "s", "Why; who submitted it reads this"),
            _STATE,
        ),
        _member("method", "Cancel", "Stop a session, or withdraw its plan", _ID, _STATE),
        _member(
            "method",
            "Subscribe",
            "Send me the signals about sessions that I may see, until I leave the bus",
        ),
        _member(
            "property", "Version", "The version of shannot", _CONSTANT, more=f' type="s"{_READ}'
        ),
        _member(
            "property",
            "PendingCount",
            "How many of the sessions that you may see wait for a decision",
            _NOT_TOLD,
            more=f' type="u"{_READ}',
        ),
        _member(
            "signal",
            "SessionPending",
            "A plan waits for a decision. Only for subscribers that may see it",
            _argument("", "id", "s", "Id of the session"),
        ),
        _member(
            "signal",
            "SessionChanged",
            "A session is in another state. Only for subscribers that may see it",
            _argument("", "id", "s", "Id of the session"),
            _argument("", "state", "s", "Its state"),
        ),
        "</interface></node>",
    )
)


class Value(NamedTuple):
    """A value with its D-Bus signature, where one must say it (in a variant)."""

    signature: str
    value: Any


# Fields of a session by the signature with which they travel; all others are left out.
_TEXTS = (
    "id",
    "name",
    "state",
    "profile",
    "target",
    "submitter_name",
    "identity",
    "digest",
    "risk",
    "kind",
    "reason",
    "amends",
    "replaced_by",
    "editor_name",
    "rollback_of",
    "rolled_back_by",
    "checkpoint",
)
_NUMBERS = {"submitter": "u", "approvals": "u"}
_TIMES = ("created_at", "expires_at", "decided_at", "duration")
_UIDS = ("decided_by", "editors")
_DETAIL_TEXTS = ("cwd", "analysis")
_DETAIL_NUMBERS = {"exit_code": "i", "signal": "i"}
_CONTENTS = ("script", "stdout", "stderr")


def summary(session: Mapping[str, Any]) -> dict[str, Value]:
    """A session without contents; what it does not have is not there."""
    fields = {name: Value("s", text(session[name])) for name in _TEXTS if session.get(name)}
    for name, signature in _NUMBERS.items():
        fields[name] = Value(signature, session[name])
    for name in _TIMES:
        if session.get(name) is not None:
            fields[name] = Value("d", float(session[name]))
    for name in _UIDS:
        fields[name] = Value("au", list(session.get(name) or ()))
    fields["counts"] = Value("a{su}", dict(session["counts"]))
    error = session.get("error")
    if error is not None:
        fields["error"] = Value("(ss)", (text(error["code"]), text(error["message"])))
    return fields


def whole(session: Mapping[str, Any]) -> dict[str, Value]:
    """A session with script and outputs; the plan is apart."""
    fields = summary(session)
    for name in _DETAIL_TEXTS:
        fields[name] = Value("s", text(session[name], keep="\n\t"))
    for name, signature in _DETAIL_NUMBERS.items():
        if session.get(name) is not None:
            fields[name] = Value(signature, session[name])
    fields["arguments"] = Value("as", [text(argument) for argument in session["arguments"]])
    for name in _CONTENTS:
        fields[name] = Value("ay", bytes(session[name]))
        truncated = session.get(f"{name}_truncated")
        if truncated:
            fields[f"{name}_truncated"] = Value("t", truncated)
    return fields


def plan(session: Mapping[str, Any]) -> tuple[bytes, str]:
    """The canonical plan and the notes of its steps; empty where there is no plan."""
    # ASCII: what is not UTF-8 (a surrogate) is an escape of JSON's.
    return session.get("plan_canonical") or b"", json.dumps(session["notes"])


def error_name(error: ShannotError) -> str:
    """The name of an error on D-Bus: its code in camel case, `org.shannot.Error.NotFound`."""
    return "org.shannot.Error." + error.code.title().replace("_", "")


def text(value: object, *, keep: str = "") -> str:
    """`value` as a D-Bus string: nothing in it deceives, or is no UTF-8."""
    return visible(str(value), keep=keep)
