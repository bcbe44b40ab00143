"""What most sessions have in common: the runner prepares for it, and they need not say it."""

from __future__ import annotations

from dataclasses import dataclass

from shannotd.policy.commands import asked_names, deny_names
from shannotd.policy.profiles import Profile


@dataclass(frozen=True)
class Usual:
    """The account of their scripts, patterns of what is hidden and of what is scratch, and names
    of programs: those that may be denied, and of those on PATH the ones of which policy need not be
    asked (`inside`), except for those of `always`."""

    run_as: str | None = None
    hide: tuple[str, ...] = ()
    scratch: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()
    always: tuple[str, ...] = ()

    @classmethod
    def of(cls, profile: Profile) -> Usual:
        """That of sessions under `profile`."""
        names = (deny_names(profile), *asked_names())
        return cls(
            profile.run_as, profile.hide, profile.scratch, *(tuple(sorted(each)) for each in names)
        )
