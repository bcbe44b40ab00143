"""What a key does."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from shannotctl.review.following import Result
from shannotctl.review.state import Review

Action = Callable[[Review], Result]
Actions = Mapping[str, Action]
