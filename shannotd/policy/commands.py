"""What policy says of one call of a program: `decide`.

All rules that hold for a call are looked at: the profile's `always_deny` and `auto_approve`
and the package's own (`programs/*.toml`). The strictest verdict wins and names its rule, except
that `auto_approve` lowers `review`. A rule that permits goes by the name that was called;
a rule that forbids by every name that the program has.
"""

from __future__ import annotations

import functools
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from shannotd.policy.patterns import CommandPattern, command_pattern, merged
from shannotd.policy.profiles import Profile
from shannotd.policy.programs import ProgramRule, ProgramRules, program_rules
from shannotd.policy.tripwires import shell_text, tripped
from shannotd.wire.decision import Decision, ProgramCall, Recording, Risk, Verdict
from shannotd.wire.text import visible

# Of a program that starts another: how many of its arguments may be that one's name.
_MAX_INNER = 256
_STRICTNESS = {decision: number for number, decision in enumerate(Decision)}


@dataclass(frozen=True)
class _Named:
    """A call under all the names that its program has."""

    names: tuple[str, ...]
    paths: tuple[str, ...]
    arguments: Sequence[str]


def decide(call: ProgramCall, profile: Profile) -> Verdict:
    """What becomes of `call` under `profile`; never raises, and in doubt is stricter."""
    rules = program_rules()
    verdict = _denied(call, profile, rules)
    if verdict is None:
        verdict = _permitted(call, profile, rules)
    return _with_tripwires(_with_first_word(verdict, call), call)


@functools.cache
def asked_names() -> tuple[frozenset[str], frozenset[str]]:
    """The names of programs on PATH, some with `*` or `?`, of which `decide` need not be asked, and
    of those of which it must be all the same.

    It is asked about every other program on PATH, too: a call may be observed, or wait for review.
    """
    inside, always = set(), set()
    for rule in program_rules().rules:
        names = {posixpath.basename(program) for program in rule.programs}
        if rule.decision not in (Decision.CONTAIN, Decision.DENY):
            always |= names
        elif rule.always:
            inside |= names
    return frozenset(inside), frozenset(always)


def deniable(profile: Profile) -> dict[str, str]:
    """The programs of which `decide` may deny a start, wherever they are: their names, some with
    `*` or `?`, and letters.

    A start counts by the name of the path that was executed and by that of the file that it leads
    to. With letters, only a start can be denied that has one of them among its options: in an
    argument that begins with one dash, or as the first of one that begins with two, be it small
    or large there. Without (""), any may be.
    """
    rules = program_rules()
    found: dict[str, str] = dict.fromkeys(rules.applets, "")

    def add(program: str, letters: str) -> None:
        name = posixpath.basename(program)
        known = found.get(name)
        any_call = not letters or known == "" or "*" in name or "?" in name
        # A program that starts another is denied where that one is.
        any_call = any_call or name in rules.wrappers
        found[name] = "" if any_call else "".join(sorted({*letters, *(known or "")}))

    for rule in rules.rules:
        if rule.decision is Decision.DENY:
            for program in rule.programs:
                add(program, rule.letters)
    for entry in _patterns(profile.always_deny):
        add(entry.program, entry.arguments.letters)
    return found


@functools.lru_cache(maxsize=256)
def _patterns(texts: tuple[str, ...]) -> tuple[CommandPattern, ...]:
    return tuple(command_pattern(text) for text in texts)


def _denied(call: ProgramCall, profile: Profile, rules: ProgramRules) -> Verdict | None:
    denying = _patterns(profile.always_deny)
    for named in _calls(call, rules):
        for pattern in denying:
            if pattern.names(named.names, named.paths) and any(
                pattern.arguments.covers(name, named.arguments, call.cwd) for name in named.names
            ):
                return Verdict(
                    Decision.DENY,
                    f"always_deny: {pattern.text}",
                    f"the profile {profile.name} never allows it",
                    Risk.DANGER,
                )
        for name in named.names:
            for rule in rules.find(name):
                if rule.decision is Decision.DENY and rule.holds(name, named.arguments, call):
                    return Verdict(Decision.DENY, rule.name, rule.reason, rule.risk)
    return None


def _calls(call: ProgramCall, rules: ProgramRules) -> Iterator[_Named]:
    """The call itself and, where it may start another program, what that may be."""
    names = [posixpath.basename(call.path), *(posixpath.basename(word) for word in call.argv[:1])]
    resolved = posixpath.basename(call.program)
    # That /bin/ls is busybox says nothing of the other programs that busybox is.
    if resolved not in rules.applets:
        names.append(resolved)
    arguments = call.argv[1:]
    unique = tuple(dict.fromkeys(name for name in names if name))
    yield _Named(unique, (call.path, call.program), arguments)
    if not rules.wrappers.isdisjoint(unique):
        for number, word in enumerate(arguments[:_MAX_INNER], 1):
            name = posixpath.basename(word)
            if name:
                yield _Named((name,), (word,), arguments[number:])


def _permitted(call: ProgramCall, profile: Profile, rules: ProgramRules) -> Verdict:
    """The verdict on a call that is not denied."""
    name = posixpath.basename(call.path)
    if not _on_path(call.path, profile, rules):
        return Verdict(
            Decision.CONTAIN,
            "outside PATH",
            "a program outside of PATH runs in the sandbox",
            Risk.SAFE,
        )
    own = posixpath.dirname(merged(call.path)) in rules.directories
    known = [rule for rule in rules.find(name) if own or rule.decision is not Decision.OBSERVE]
    holding = [
        rule
        for rule in known
        if rule.decision is not Decision.DENY
        and not rule.otherwise
        and rule.holds(name, call.argv[1:], call)
    ]
    # A rule that knows all of the call says more of it than one that knows the program.
    reading = [rule for rule in holding if rule.reads]
    rule = max(reading or holding, key=lambda each: _rank(each.decision, each.risk), default=None)
    if rule is None or rule.decision is Decision.REVIEW:
        approved = _approved(call, profile, () if rule is not None else known)
        if approved is not None:
            return approved
    if rule is None:
        rule = next((each for each in known if each.otherwise), None)
    if rule is None:
        return _unknown(call, known, rules)
    verdict = _verdict(rule, call)
    return _with_inner(verdict, call, rules) if name in rules.wrappers else verdict


def _rank(decision: Decision, risk: Risk) -> tuple[int, int]:
    return _STRICTNESS[decision], risk.rank


def _verdict(rule: ProgramRule, call: ProgramCall) -> Verdict:
    verdict = Verdict(rule.decision, rule.name, rule.reason, rule.risk)
    if rule.decision is Decision.OBSERVE:
        return replace(verdict, observation=rule.observation(call))
    if rule.decision is Decision.REVIEW:
        return replace(verdict, recording=rule.recording(call))
    return verdict


def _unknown(call: ProgramCall, known: Sequence[ProgramRule], rules: ProgramRules) -> Verdict:
    """The verdict where no rule holds."""
    if any(rule.knows for rule in known):
        reason = "not all of its arguments are known to be harmless"
    else:
        reason = "no rule says what it does"
    verdict = Verdict(Decision.REVIEW, "unknown", reason, Risk.UNKNOWN, recording=Recording())
    return _with_inner(verdict, call, rules)


def _approved(call: ProgramCall, profile: Profile, known: Sequence[ProgramRule]) -> Verdict | None:
    """The verdict of a matching `auto_approve`: it never asks.

    It is observed if one of `known` observes the program, the pattern names more than the program
    and no option is among what its `*` stands for. As nobody knows that it is harmless, it is
    then no root, of no group and reaches no socket. Every other call runs contained, where it
    harms nothing.
    """
    arguments = call.argv[1:]
    for pattern in _patterns(profile.auto_approve):
        names = (posixpath.basename(call.path),)
        if not pattern.names(names, (call.path,)) or not pattern.arguments.admits(arguments):
            continue
        rule = f"auto_approve: {pattern.text}"
        reason = f"the profile {profile.name} approves it"
        observing = [each for each in known if each.decision is Decision.OBSERVE]
        words = pattern.arguments.words
        free = arguments[len(words) :]
        named = any(not word.startswith("-") and "*" not in word for word in words)
        if observing and named and not any(word.startswith(("-", "+")) for word in free):
            observation = observing[0].observation(call)
            observation = replace(observation, as_root=False, sockets=(), groups=(), shows=())
            return Verdict(Decision.OBSERVE, rule, reason, Risk.SAFE, observation)
        return Verdict(Decision.CONTAIN, rule, f"{reason}; it runs in the sandbox", Risk.SAFE)
    return None


def _with_inner(verdict: Verdict, call: ProgramCall, rules: ProgramRules) -> Verdict:
    """A verdict of review on a program that starts another, at that one's risk if it is higher."""
    if verdict.decision is not Decision.REVIEW:
        return verdict
    inner = [
        (rule, named.names[0])
        for named in list(_calls(call, rules))[1:]
        for rule in rules.find(named.names[0])
        if rule.decision is Decision.REVIEW
        and rule.holds(named.names[0], named.arguments, call)
        and rule.risk.rank > verdict.risk.rank
    ]
    if not inner:
        return verdict
    rule, name = max(inner, key=lambda pair: pair[0].risk.rank)
    return replace(
        verdict, risk=rule.risk, reason=f"{verdict.reason}; starts {name}: {rule.reason}"
    )


def _on_path(path: str, profile: Profile, rules: ProgramRules) -> bool:
    directory = merged(posixpath.dirname(path) + "/").rstrip("/")
    searched = profile.environment.get("PATH", "").split(":")
    return directory in rules.directories or directory in [
        merged(each.rstrip("/") + "/").rstrip("/") for each in searched if each.startswith("/")
    ]


def _with_first_word(verdict: Verdict, call: ProgramCall) -> Verdict:
    """A verdict of review where the program is told another name than it was called by, after
    which it may act."""
    name = posixpath.basename(call.argv[0]).removeprefix("-") if call.argv else ""
    names = (posixpath.basename(call.path), posixpath.basename(call.program))
    if verdict.decision is not Decision.REVIEW or name in names:
        return verdict
    reason = f"{verdict.reason}; it is told that its name is {visible(name)}"
    return replace(verdict, risk=Risk.DANGER, reason=reason)


def _with_tripwires(verdict: Verdict, call: ProgramCall) -> Verdict:
    """The verdict with the risk of the shell text in the arguments, if that is higher."""
    text = shell_text(call.argv)
    for risk, reason in () if text is None else tripped(text):
        risk = max(risk, verdict.risk, key=lambda each: each.rank)
        verdict = replace(
            verdict, risk=risk, reason=f"{verdict.reason}; its text {reason} (a guess)"
        )
    return verdict
