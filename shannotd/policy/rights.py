"""What a file change does to rights: mode bits, owners, capabilities, access lists, labels."""

from __future__ import annotations

from collections.abc import Iterator

from shannotd.policy import acl
from shannotd.wire.decision import Risk
from shannotd.wire.step import FileState
from shannotd.wire.text import visible

Finding = tuple[Risk, str]

_SETUID, _SETGID, _STICKY = 0o4000, 0o2000, 0o1000
_WRITE_BY_ALL = 0o002
_CAPABILITY = "security.capability"
_LABEL = "security.selinux"
# Access lists, and what they give access to.
_LISTS = {
    "system.posix_acl_access": "it",
    "system.posix_acl_default": "what is made in it from then on",
}
_ACTS = {_SETUID: "acts as the file's owner", _SETGID: "acts for the file's group"}
_NAMES = {_SETUID: "setuid", _SETGID: "setgid"}


def rights_findings(before: FileState, after: FileState, *, sensitive: bool) -> Iterator[Finding]:
    """What is to be said of it; `sensitive` is a place of the system, where it weighs more."""
    if after.type == "absent":
        return
    if after.xattrs or before.xattrs:
        yield from _capability_findings(before, after)
        yield from _list_findings(before, after, sensitive=sensitive)
        yield from _label_findings(before, after)
    if after.mode is None or after.type == "symlink":
        return
    yield from _special_findings(before, after)
    # What another file had here before says nothing of this one's bits.
    gained = after.mode & ~_bits(before, after)
    if gained & _WRITE_BY_ALL and not (after.type == "directory" and after.mode & _STICKY):
        yield Risk.DANGER if sensitive else Risk.CAUTION, "everybody may write to it"
    if before.type != "absent":
        if (before.uid, before.gid) != (after.uid, after.gid):
            yield (
                Risk.CAUTION,
                f"changes owner from {before.uid}:{before.gid} to {after.uid}:{after.gid}",
            )
        if before.mode is not None and before.type == after.type and gained & 0o077:
            yield Risk.CAUTION, f"others may do more: mode {before.mode:04o} to {after.mode:04o}"


def _bits(before: FileState, after: FileState) -> int:
    return (before.mode or 0) if before.type == after.type else 0


def _special_findings(before: FileState, after: FileState) -> Iterator[Finding]:
    old, new = _bits(before, after), after.mode or 0
    if after.type != "file":
        if new & ~old & _SETGID:
            yield Risk.CAUTION, "setgid: what is made in it belongs to its group"
        return
    for bit, acts in _ACTS.items():
        name = _NAMES[bit]
        if new & ~old & bit:
            yield Risk.DANGER, f"{name}: whoever starts it {acts}"
        elif old & ~new & bit:
            yield Risk.DANGER, f"is {name} no longer: whoever starts it {acts} no more"
        elif new & bit and before.sha256 != after.sha256:
            yield Risk.DANGER, f"another program that is {name}: whoever starts it {acts}"


def _capability_findings(before: FileState, after: FileState) -> Iterator[Finding]:
    old, new = before.xattrs.get(_CAPABILITY), after.xattrs.get(_CAPABILITY)
    if new is not None and (new != old or before.sha256 != after.sha256):
        yield Risk.DANGER, "file capabilities: whoever starts it gets rights of root"
    elif old is not None and new is None and after.type == "file":
        yield Risk.DANGER, "loses its file capabilities: whoever starts it lacks rights of root"


def _list_findings(before: FileState, after: FileState, *, sensitive: bool) -> Iterator[Finding]:
    for name, what in _LISTS.items():
        old, new = before.xattrs.get(name), after.xattrs.get(name)
        if old == new:
            continue
        try:
            had, has = acl.grants(old), acl.grants(new)
        except ValueError:
            yield Risk.UNKNOWN, "has an access list (ACL) of a kind that is not known"
            continue
        told = False
        for who, bits in has.items():
            gained = bits & ~had.get(who, 0)
            if gained & acl.WRITE:
                told = True
                # In a new file it may come from its directory's list, and opens nothing old.
                grave = sensitive or before.type != "absent"
                risk = Risk.DANGER if grave else Risk.CAUTION
                yield risk, f"an access list (ACL) lets {who} write to {what}"
            elif gained:
                told = True
                yield Risk.CAUTION, f"an access list (ACL) lets {who} read or run {what}"
        if not told:
            yield Risk.CAUTION, "an access list (ACL) says who else may use it"


def _label_findings(before: FileState, after: FileState) -> Iterator[Finding]:
    old, new = before.xattrs.get(_LABEL), after.xattrs.get(_LABEL)
    if before.type != "absent" and old != new:
        yield (
            Risk.DANGER,
            f"another SELinux label, by which services are kept apart: {_label(old)} to"
            f" {_label(new)}",
        )


def _label(value: str | None) -> str:
    if value is None:
        return "none"
    return visible(bytes.fromhex(value).decode("utf-8", "surrogateescape").rstrip("\0"))
