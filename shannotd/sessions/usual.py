"""What most sessions have in common: the runner prepares for it, and they need not say it."""

from __future__ import annotations

from dataclasses import dataclass

from shannotd.policy.commands import deny_names
from shannotd.policy.profiles import Profile


@dataclass(frozen=True)
class Usual:
    """The account of their scripts, patterns of what is hidden and of what is scratch, and the
    names of programs that may be denied."""

    run_as: str | None = None
    hide: tuple[str, ...] = ()
    scratch: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()

    @classmethod
    def of(cls, profile: Profile) -> Usual:
        """That of sessions under `profile`."""
        denied = tuple(sorted(deny_names(profile)))
        return cls(profile.run_as, profile.hide, profile.scratch, denied)
