"""How a plan's steps are shown: safe, caution, unknown or danger, with a reason in words.

Looks at what changes, whatever program changed it. Risk decides nothing: it directs a
reviewer's eye. The rules are data (risk.toml); what is here looks beside the path at modes,
links, kinds of files and numbers of deletions.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Sequence

from shannotd.policy.command_risk import Finding, assess_commands
from shannotd.policy.held import Held, Holder, held_finding
from shannotd.policy.rights import rights_findings
from shannotd.policy.rules import RiskRules, Rule, risk_rules
from shannotd.wire.decision import Decision, Risk
from shannotd.wire.plan import Plan, StepCounts
from shannotd.wire.step import FileState, Step

_WRITE_BY_OTHERS = 0o022
_DEVICES = ("character", "block")
_ABSENT = FileState("absent")
_NOBODY: Held = {}

_PLAIN: dict[str | None, Finding] = {
    "create": (Risk.SAFE, "something new, where no known rule applies"),
    "modify": (Risk.SAFE, "new content, where no known rule applies"),
    "append": (Risk.SAFE, "adds at the end; what was there stays"),
    "delete": (Risk.CAUTION, "is gone after this"),
    "rename": (Risk.SAFE, "another name; the content stays"),
    "metadata": (Risk.SAFE, "mode, owner, attributes or times; the content stays"),
}
_COUNTED = {
    "create": "create",
    "modify": "modify",
    "append": "append",
    "delete": "delete",
    "metadata": "metadata",
    "rename": "rename",
}
_DECIDED: dict[str | None, str] = {Decision.OBSERVE: "observed", Decision.DENY: "denied"}


def assess_plan(plan: Plan, held: Held = _NOBODY) -> tuple[tuple[Risk, str], ...]:
    """The risk of each step of `plan` and the reason for it, in the order of the steps.

    `held` says who holds open for writing what steps replace or delete.
    """
    rules = risk_rules()
    findings = [
        _assess_step(step, rules, held.get(index, ())) for index, step in enumerate(plan.steps)
    ]
    deleted = [_deleted_entries(step) for step in plan.steps]
    total = sum(deleted)
    if total >= rules.deletions.caution_entries:
        mass = (
            Risk.DANGER if total >= rules.deletions.danger_entries else Risk.CAUTION,
            f"one of {total} deletions in this plan",
        )
        findings = [
            _highest((finding, mass)) if entries else finding
            for finding, entries in zip(findings, deleted, strict=True)
        ]
    return tuple(assess_commands(plan.steps, findings, rules))


def plan_risk(findings: Iterable[tuple[Risk, str]]) -> Risk:
    """The highest risk of what `assess_plan` found; safe if there is nothing."""
    return max((risk for risk, _ in findings), key=lambda risk: risk.rank, default=Risk.SAFE)


def counts(plan: Plan) -> StepCounts:
    """How many steps of each kind `plan` has; an unknown change counts as a modification."""
    numbers: dict[str, int] = {}
    for step in plan.steps:
        if step.kind == "blocked":
            kind = "blocked"
        elif step.kind != "file":
            # What is not known is counted with what runs on the host: it must not be missed.
            kind = _DECIDED.get(step.decision, "command")
        elif step.scratch:
            kind = "scratch"
        else:
            kind = _COUNTED.get(step.change or "", "modify")
        numbers[kind] = numbers.get(kind, 0) + 1
    return StepCounts(**numbers)


def _assess_step(step: Step, rules: RiskRules, holders: Sequence[Holder]) -> Finding:
    if step.kind == "blocked" and step.what == "call":
        reason = "was killed before it could be recorded; it is not part of what is applied"
        return Risk.CAUTION, reason
    if step.kind == "blocked":
        grave = step.what in rules.blocked_danger or step.target in rules.blocked_danger_targets
        risk = Risk.DANGER if grave else rules.blocked_default
        return risk, "was refused in the dry run; it is not part of what is applied"
    if step.kind == "command":
        return step.risk, step.reason
    if step.kind != "file" or step.path is None:
        return Risk.UNKNOWN, "what it does on the host is not known beforehand"
    if step.scratch:
        return Risk.SAFE, "scratch: shown, not applied"
    findings = list(_file_findings(step, step.path, rules))
    if holders:
        findings.append(held_finding(step, holders))
    return _highest(findings)


def _highest(findings: Iterable[Finding]) -> Finding:
    """The highest risk with all reasons for it, in their order."""
    best = Risk.SAFE
    reasons: list[str] = []
    for risk, reason in findings:
        if not reasons or risk.rank > best.rank:
            best, reasons = risk, [reason]
        elif risk is best and reason not in reasons:
            reasons.append(reason)
    return best, "; ".join(reasons)


def _file_findings(step: Step, path: str, rules: RiskRules) -> Iterator[Finding]:
    """Everything that can be said of a file change, the most telling first."""
    before, after = step.before or _ABSENT, step.after or _ABSENT
    # A rename without states says all by its two names.
    created = before.type == "absent" and step.change != "rename"
    known = False
    for place in (path, step.old_path):
        rule = None if place is None else rules.paths.find(place)
        if rule is not None:
            known = True
            yield rule.create if created and rule.create else rule.risk, _words(rule)
    if before.type == "directory" or after.type != "file" or step.change == "rename":
        yield from _directory_findings(step, path, before, after, rules)
    if after.type == "symlink" and after.target and after.target != before.target:
        yield from _link_findings(path, after.target, rules)
    if step.link_to is not None:
        linked = rules.paths.find(step.link_to)
        if linked is not None:
            yield linked.risk, f"a second name for: {_words(linked)}"
    sensitive = rules.system.fullmatch(path) is not None
    yield from rights_findings(before, after, sensitive=sensitive)
    if before.links is not None and before.links > 1 and step.change not in ("delete", "rename"):
        stays = "the change is one of all of them"
        if step.change != "metadata":
            stays = "the other names keep the old content"
        yield Risk.DANGER, f"the file has {before.links} names (hard links): {stays}"
    yield from _kind_findings(step, before, after)
    if not known:
        yield _PLAIN.get(step.change, (Risk.UNKNOWN, "a change of a kind that is not known"))


def _words(rule: Rule) -> str:
    return f"{rule.role}: {rule.effect}"


def _directory_findings(
    step: Step, path: str, before: FileState, after: FileState, rules: RiskRules
) -> Iterator[Finding]:
    """What is lost, moved or opened with a whole directory."""
    gone = step.old_path if step.change == "rename" else path
    loses = step.change == "rename" or (before.type == "directory" and after.type != "directory")
    if loses and gone is not None:
        if rules.whole_directories.fullmatch(gone):
            yield Risk.DANGER, "a whole directory that much depends on"
        held = rules.holders.find(gone)
        if held is not None:
            yield Risk.DANGER, f"the directory is the place of: {_words(held)}"
    if step.change == "rename" or after.type == "symlink":
        taken = rules.holders.find(path)
        if taken is not None:
            yield Risk.DANGER, f"takes the place of the directory of: {_words(taken)}"
    if before.type == after.type == "directory" and _opens(before, after):
        opened = rules.holders.find(path)
        if opened is not None:
            yield Risk.DANGER, f"lets others write in the directory of: {_words(opened)}"
    if before.tree is not None and loses:
        yield _lost_tree(before.tree.entries, before.tree.size, rules)


def _lost_tree(entries: int, size: int, rules: RiskRules) -> Finding:
    large = entries >= rules.deletions.danger_entries or size >= rules.deletions.danger_bytes
    return (
        Risk.DANGER if large else Risk.CAUTION,
        f"a directory with {entries} entries in it, {size} bytes",
    )


def _opens(before: FileState, after: FileState) -> bool:
    """Whether somebody may write afterwards who could not before."""
    gained = (after.mode or 0) & ~(before.mode or 0)
    return bool(gained & _WRITE_BY_OTHERS) or after.uid != before.uid


def _link_findings(path: str, target: str, rules: RiskRules) -> Iterator[Finding]:
    """Where a new symlink leads, read as text: what it passes through is not known here."""
    leads = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    rule = rules.paths.find(leads)
    if rule is not None and rule.links:
        yield rule.risk, f"leads to: {_words(rule)}"
    holder = rules.holders.find(leads)
    if holder is not None and holder.links:
        yield Risk.DANGER, f"leads to the directory of: {_words(holder)}"
    elif leads == "/":
        yield Risk.DANGER, "leads to the root of the file system"


def _kind_findings(step: Step, before: FileState, after: FileState) -> Iterator[Finding]:
    if after.type in _DEVICES or before.type in _DEVICES:
        yield Risk.DANGER, "a device node: raw access to hardware"
    elif after.type in ("fifo", "socket"):
        yield Risk.CAUTION, f"a {after.type}, not a file"
    elif step.change == "rename":
        if before.type not in ("absent", after.type) or (
            before.type != "absent" and before.sha256 != after.sha256
        ):
            yield Risk.CAUTION, "replaces what had the new name"
    elif (
        after.type == "file"
        and after.sha256 is None
        and step.link_to is None
        and step.change in ("create", "modify")
    ):
        yield Risk.UNKNOWN, "its new content is not known"
    if after.type != before.type and "absent" not in (after.type, before.type):
        yield Risk.CAUTION, f"a {before.type} becomes a {after.type}"


def _deleted_entries(step: Step) -> int:
    """How many entries are gone after `step`."""
    if step.kind != "file" or step.scratch or step.before is None:
        return 0
    after = "absent" if step.after is None else step.after.type
    replaced = step.before.type == "directory" and after != "directory"
    if step.change == "rename" or not (step.change == "delete" or replaced):
        return 0
    return 1 if step.before.tree is None else max(1, step.before.tree.entries)
