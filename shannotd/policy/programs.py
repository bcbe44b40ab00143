"""The rules of programs in `programs/*.toml`, read and compiled once.

Keys of a `[[rule]]`:

- `decision`, `programs` (names, or patterns of names, or absolute paths), `reason`, `name` (the
  first program, if it is not given), `risk`.
- What the rule is for. A rule that permits (`contain`, `observe`), or one of `review` that says
  `reads` (the call only reads, but cannot be observed), holds for a call only if all of it is
  known: `options` are those that are harmless (shannotd.policy.options explains how
  they are written; with `exact` as for `ip`), `requires` are those of which one must be there,
  `arguments` are patterns of the words beside them (`*` at the end: any more; without the key
  none), `forbid` are patterns that no word and no option's value may have. Without `options` it
  holds for all calls.
  A rule of `review` that says `otherwise` holds if no other rule of the program does. Any other
  rule of `review` or `deny` holds if the first word is one of `verbs` (`options`
  then are those that take a value), or `when` one of these patterns covers the arguments, and none
  of `unless` does. `identity` is `root` or `user` where a rule is only for scripts of
  root, or of others.
- How an observed program runs: `net` (none; host, where it can read the kernel's tables;
  interfaces, where it can look at these besides), `sockets`, `as_root` (for a script of root's,
  which is nobody otherwise), `groups` (which nobody then gets), `shows` (what it may not look up
  itself: socket owners, kernel log, user limits, disks, all mounts, filesystems once), `owners`
  (shown: it prints whose something is; sought: it looks for what is somebody's), `insert` (words
  put before its arguments), `seconds`, `output_bytes`, and `paths`: its words are paths, made
  absolute since it runs in `/`.
- How a recorded command answers and is applied: `exit_status`, `stdout`, `stdin`, `seconds`,
  `undo` (`again`: the same command once more makes up for it, after files are restored), `inverse`
  (verbs, each with the one that makes up for it in its place, before files are restored; where no
  word is a path).
"""

from __future__ import annotations

import functools
import re
import shlex
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.resources.abc import Traversable

from shannotd.policy.globs import expand_braces
from shannotd.policy.options import Arguments, Options
from shannotd.policy.patterns import ArgumentPattern, argument_pattern
from shannotd.wire.decision import Decision, Observation, ProgramCall, Recording, Risk
from shannotd.wire.decode import decode


@dataclass(frozen=True)
class _Entry:
    """A rule as the file has it."""

    decision: Decision
    programs: tuple[str, ...]
    reason: str
    name: str = ""
    risk: Risk | None = None
    options: str | None = None
    exact: bool = False
    reads: bool = False
    otherwise: bool = False
    requires: str = ""
    arguments: tuple[str, ...] = ("",)
    forbid: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ()
    when: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()
    identity: str = ""
    paths: bool = False
    net: str = "none"
    sockets: tuple[str, ...] = ()
    as_root: bool = False
    groups: tuple[str, ...] = ()
    shows: tuple[str, ...] = ()
    owners: str = ""
    insert: str = ""
    exit_status: int = 0
    stdout: str = ""
    stdin: bool = False
    undo: str = ""
    inverse: Mapping[str, str] = field(default_factory=dict)
    seconds: float | None = None
    output_bytes: int = 1024 * 1024


@dataclass(frozen=True)
class _File:
    rule: tuple[_Entry, ...] = ()
    wrappers: tuple[str, ...] = ()
    applets: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()


_SHOWN = frozenset(
    {"socket owners", "kernel log", "user limits", "disks", "all mounts", "filesystems once"}
)
_KEYS = frozenset(_Entry.__dataclass_fields__)
_RISKS = {
    Decision.CONTAIN: Risk.SAFE,
    Decision.OBSERVE: Risk.SAFE,
    Decision.REVIEW: Risk.CAUTION,
    Decision.DENY: Risk.DANGER,
}


@dataclass(frozen=True)
class ProgramRule:
    """One rule, ready to judge a call of a program that it names."""

    name: str
    decision: Decision
    reason: str
    risk: Risk
    programs: tuple[str, ...]
    _entry: _Entry
    _options: Options | None
    _words: tuple[ArgumentPattern, ...] = ()
    _forbid: tuple[ArgumentPattern, ...] = ()
    _requires: frozenset[str] = frozenset()
    _when: tuple[ArgumentPattern, ...] = ()
    _unless: tuple[ArgumentPattern, ...] = ()

    @property
    def always(self) -> bool:
        """Whether it holds for every call of its programs, whoever makes it."""
        entry = self._entry
        conditions = (entry.identity, self._when, entry.verbs, self._options, self._unless)
        return not (any(conditions) or entry.otherwise)

    @property
    def otherwise(self) -> bool:
        """Whether it is only for calls for which there is no other rule."""
        return self._entry.otherwise

    @property
    def reads(self) -> bool:
        """Whether it is for calls that only read, but cannot be observed."""
        return self._entry.reads

    @property
    def knows(self) -> bool:
        """Whether it is only for calls all of which is known."""
        return self.decision in (Decision.CONTAIN, Decision.OBSERVE) or self.reads

    @property
    def letters(self) -> str:
        """Of a rule that restrains: letters of which one is among the options of every call that
        it is for (see `ArgumentPattern.letters`); none where there need be no option."""
        letters = [pattern.letters for pattern in self._when]
        return "" if self._entry.verbs or not all(letters) else "".join(letters)

    def holds(self, name: str, arguments: Sequence[str], call: ProgramCall) -> bool:
        """Whether the rule is for this call, of one of its programs under the name `name`."""
        if self._entry.identity and (self._entry.identity == "root") != call.as_root:
            return False
        if self.knows:
            return self._options is None or self._read(arguments) is not None
        return self._restrains(name, arguments, call.cwd)

    def observation(self, call: ProgramCall) -> Observation:
        """How an observed call is run."""
        entry = self._entry
        return Observation(
            program=call.path,
            argv=(call.path, *entry.insert.split(), *self._absolute(call)),
            net=entry.net,
            sockets=entry.sockets,
            as_root=entry.as_root and call.as_root,
            groups=entry.groups,
            shows=entry.shows,
            owners=entry.owners,
            seconds=entry.seconds or Observation.seconds,
            output_bytes=entry.output_bytes,
        )

    def recording(self, call: ProgramCall) -> Recording:
        """How a call is recorded for review."""
        entry = self._entry
        return Recording(
            exit_status=entry.exit_status,
            stdout=entry.stdout,
            stdin=entry.stdin,
            undo=(call.path, *call.argv[1:]) if entry.undo == "again" else self._inverted(call),
            seconds=entry.seconds or Recording.seconds,
        )

    def _inverted(self, call: ProgramCall) -> tuple[str, ...] | None:
        """The same program with the verb that makes up for that of `call`; None without one."""
        arguments = call.argv[1:]
        read = (self._options or _NO_OPTIONS).read(arguments, tolerant=True)
        if not self._entry.inverse or read is None or not read.words:
            return None
        first, *others = read.words
        other = self._entry.inverse.get(arguments[first])
        if other is None or any("/" in arguments[number] for number in others):
            return None
        return (call.path, *arguments[:first], other, *arguments[first + 1 :])

    def _absolute(self, call: ProgramCall) -> Iterator[str]:
        """The arguments with every path made absolute: the program runs in another directory."""
        read = self._read(call.argv[1:])
        starts = dict(() if read is None else read.paths)
        if read is not None and self._entry.paths:
            starts.update((number, 0) for number in read.words)
        for number, argument in enumerate(call.argv[1:]):
            start = starts.get(number)
            if start is None or call.cwd == "/" or argument.startswith("/", start):
                yield argument
            else:
                yield f"{argument[:start]}{call.cwd.rstrip('/')}/{argument[start:]}"

    def _read(self, arguments: Sequence[str]) -> Arguments | None:
        """The arguments, read, if all of them are known."""
        read = None if self._options is None else self._options.read(arguments)
        if read is None or (self._requires and not self._requires & read.options):
            return None
        words = [arguments[number] for number in read.words]
        if any(
            pattern.admits([word]) for word in (*words, *read.values) for pattern in self._forbid
        ):
            return None
        return read if any(pattern.admits(words) for pattern in self._words) else None

    def _restrains(self, name: str, arguments: Sequence[str], cwd: str) -> bool:
        entry = self._entry
        if any(pattern.covers(name, arguments, cwd) for pattern in self._unless):
            return False
        if not entry.verbs and not self._when:
            return True
        if any(pattern.covers(name, arguments, cwd) for pattern in self._when):
            return True
        if not entry.verbs:
            return False
        read = (self._options or _NO_OPTIONS).read(arguments, tolerant=True)
        return read is not None and any(arguments[first] in entry.verbs for first in read.words[:1])


_NO_OPTIONS = Options("")


@dataclass(frozen=True)
class ProgramRules:
    """All rules, found by the name of a program.

    `wrappers` are programs that start the one in their arguments, `applets` those that are many
    programs in one file, `directories` those whose programs are the system's own.
    """

    rules: tuple[ProgramRule, ...]
    wrappers: frozenset[str]
    applets: frozenset[str]
    directories: frozenset[str]
    _by_name: dict[str, list[ProgramRule]] = field(default_factory=dict)
    _by_pattern: list[tuple[re.Pattern[str], ProgramRule]] = field(default_factory=list)

    def find(self, name: str) -> list[ProgramRule]:
        """The rules that name this program."""
        named = self._by_name.get(name, [])
        return [*named, *(rule for pattern, rule in self._by_pattern if pattern.fullmatch(name))]


@functools.cache
def program_rules() -> ProgramRules:
    """The package's rules.

    :raises ValueError: a file is not valid (a fault of the package).
    """
    parts = [parse_rules(file.read_text("utf-8"), f"programs/{file.name}") for file in rule_files()]
    names = [rule.name for part in parts for rule in part.rules]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"programs: rules of the same name: {', '.join(sorted(twice))}")
    return join_rules(parts)


def rule_files() -> list[Traversable]:
    """The files that hold the rules."""
    found = files("shannotd.policy").joinpath("programs").iterdir()
    return sorted((file for file in found if file.name.endswith(".toml")), key=lambda f: f.name)


def parse_rules(text: str, where: str) -> ProgramRules:
    """The rules that `text`, a file named `where`, holds.

    :raises ValueError: naming what is wrong in it.
    """
    content = tomllib.loads(text)
    tables = content.get("rule", [])
    for number, table in enumerate(tables if isinstance(tables, list) else ()):
        unknown = sorted(set(table) - _KEYS)
        if unknown:
            raise ValueError(f"{where}.rule[{number}].{unknown[0]}: unknown key")
    file = decode(_File, content, where)
    rules = []
    for number, entry in enumerate(file.rule):
        try:
            rules.append(_compiled(entry))
        except ValueError as error:
            raise ValueError(f"{where}.rule[{number}]: {error}") from None
    return _indexed(rules, file.wrappers, file.applets, file.directories)


def join_rules(parts: Iterable[ProgramRules]) -> ProgramRules:
    """The rules of several files as one."""
    joined = list(parts)
    return _indexed(
        [rule for part in joined for rule in part.rules],
        [name for part in joined for name in part.wrappers],
        [name for part in joined for name in part.applets],
        [name for part in joined for name in part.directories],
    )


def _indexed(
    rules: Sequence[ProgramRule],
    wrappers: Iterable[str],
    applets: Iterable[str],
    directories: Iterable[str],
) -> ProgramRules:
    made = ProgramRules(
        tuple(rules), frozenset(wrappers), frozenset(applets), frozenset(directories)
    )
    for rule in rules:
        for program in rule.programs:
            if "*" in program or "?" in program:
                expression = re.escape(program).replace(r"\*", ".*").replace(r"\?", ".")
                made._by_pattern.append((re.compile(expression), rule))
            else:
                made._by_name.setdefault(program, []).append(rule)
    return made


def _compiled(entry: _Entry) -> ProgramRule:
    if not entry.programs:
        raise ValueError("programs: there are none")
    if (entry.reads or entry.otherwise) and entry.decision is not Decision.REVIEW:
        raise ValueError("reads and otherwise are for rules of review")
    knows = entry.reads or entry.decision in (Decision.CONTAIN, Decision.OBSERVE)
    if knows and (entry.verbs or entry.when or entry.unless):
        raise ValueError("verbs, when and unless are for rules that restrain")
    if (entry.reads or entry.decision is Decision.OBSERVE) and entry.options is None:
        raise ValueError("options: an observed program declares those that are harmless")
    if entry.net not in ("none", "host", "interfaces") or entry.undo not in ("", "again"):
        raise ValueError("net is none, host or interfaces, undo is again")
    if not set(entry.inverse) <= set(entry.verbs) or (entry.inverse and entry.undo):
        raise ValueError("inverse is of verbs, and no rule has both it and undo")
    if not set(entry.shows) <= _SHOWN:
        raise ValueError(f"shows: one of {', '.join(sorted(_SHOWN))}")
    if entry.owners not in ("", "shown", "sought"):
        raise ValueError("owners are shown or sought")
    if entry.identity not in ("", "root", "user"):
        raise ValueError("identity is root or user")
    return ProgramRule(
        name=entry.name or entry.programs[0],
        decision=entry.decision,
        reason=entry.reason,
        risk=entry.risk or (Risk.SAFE if entry.reads else _RISKS[entry.decision]),
        programs=tuple(name for text in entry.programs for name in expand_braces(text)),
        _entry=entry,
        _options=None if entry.options is None else Options(entry.options, exact=entry.exact),
        _words=_patterns(entry.arguments),
        _forbid=_patterns(entry.forbid),
        _requires=frozenset(entry.requires.split()),
        _when=_patterns(entry.when),
        _unless=_patterns(entry.unless),
    )


def _patterns(texts: Iterable[str]) -> tuple[ArgumentPattern, ...]:
    return tuple(
        argument_pattern(shlex.split(expanded))
        for text in texts
        for expanded in expand_braces(text)
    )
