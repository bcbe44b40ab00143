"""Which programs of the runner's host have a shim, so that policy is asked at each call of them."""

from __future__ import annotations

from collections import OrderedDict

from shannotd.policy.commands import shimmed
from shannotd.policy.profiles import Profile

_KEPT = 16


class Shims:
    """Remembers what a profile makes of a list of programs: there may be thousands of them."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[str, ...]] = OrderedDict()
        self._programs: tuple[str, ...] = ()

    def of(self, profile: Profile, version: str, programs: tuple[str, ...]) -> tuple[str, ...]:
        """Those of `programs` that have a shim under `profile`, sorted.

        :param version: of the policy that the profile makes.
        """
        if programs is not self._programs:  # seldom: to compare them takes its time
            self._programs = programs
            self._known.clear()
        if version not in self._known:
            self._known[version] = tuple(sorted(shimmed(profile, programs)))
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return self._known[version]
