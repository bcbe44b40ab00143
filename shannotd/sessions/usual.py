"""What most sessions have in common: the runner prepares for it, and they need not say it."""

from __future__ import annotations

from dataclasses import dataclass

from shannotd.policy.commands import asked_names, deniable
from shannotd.policy.profiles import Profile


@dataclass(frozen=True)
class Usual:
    """The account of their scripts, patterns of what is hidden and of what is scratch, and names
    of programs: those that may be denied (`deniable` in policy), and of those on PATH the ones of
    which policy need not be asked (`inside`), except for those of `always`."""

    run_as: str | None = None
    hide: tuple[str, ...] = ()
    scratch: tuple[str, ...] = ()
    deny: tuple[tuple[str, str], ...] = ()
    inside: tuple[str, ...] = ()
    always: tuple[str, ...] = ()

    @classmethod
    def of(cls, profile: Profile) -> Usual:
        """That of sessions under `profile`."""
        inside, always = (tuple(sorted(names)) for names in asked_names())
        deny = tuple(sorted(deniable(profile).items()))
        return cls(profile.run_as, profile.hide, profile.folded, deny, inside, always)
