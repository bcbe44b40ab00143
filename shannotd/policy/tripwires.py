"""Shell text that is worth a second look.

Text decides nothing: what a shell starts is judged when it starts. A tripwire only raises the
risk that is shown, and says what it saw.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence

from shannotd.wire.decision import Risk

_MAX_CHARACTERS = 64 * 1024  # of a text, from its beginning
_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh", "mksh", "ash", "busybox"})
_INTERPRETER = (
    r"(?:\S*/)?(?:sudo\s+(?:-\S+\s+)*)?(?:\S*/)?(?:(?:ba|da|z|k|a)?sh|python3?|perl|ruby)\b"
)
_TRIPWIRES: tuple[tuple[re.Pattern[str], Risk, str], ...] = tuple(
    (re.compile(expression), risk, reason)
    for expression, risk, reason in (
        (
            rf"\b(?:curl|wget|fetch)\b[^\n;]{{0,400}}\|\s*{_INTERPRETER}",
            Risk.DANGER,
            "runs what it downloads",
        ),
        (
            r"\b(?:eval|source|(?:ba|da|z)?sh\s+-c|\.)\s+[\"'<]*\$?\(\s*(?:curl|wget)\b",
            Risk.DANGER,
            "runs what it downloads",
        ),
        (
            rf"\b(?:base(?:64|32)\s+(?:-d|--d\w*|-D)|xxd\s+-r\S*)\b[^\n;]{{0,400}}\|\s*{_INTERPRETER}",
            Risk.DANGER,
            "runs what it decodes",
        ),
        (r":\s*\(\s*\)\s*\{[^}]{0,200}:\s*\|\s*:", Risk.DANGER, "starts itself without end"),
        (
            r">\s*/dev/(?:sd|hd|vd|xvd|nvme|mmcblk|mapper/|dm-|md)\w*",
            Risk.DANGER,
            "writes over a disk",
        ),
        (r"/dev/(?:tcp|udp)/", Risk.DANGER, "opens a connection from the shell"),
        (
            r"\bLD_(?:PRELOAD|LIBRARY_PATH|AUDIT)=",
            Risk.CAUTION,
            "has programs load other libraries",
        ),
    )
)


def tripped(text: str) -> tuple[tuple[Risk, str], ...]:
    """What in `text`, the text of a shell script, is worth a second look; each once."""
    beginning = text[:_MAX_CHARACTERS]
    found = {
        (risk, reason): None
        for expression, risk, reason in _TRIPWIRES
        if expression.search(beginning)
    }
    return tuple(found)


def shell_text(argv: Sequence[str]) -> str | None:
    """The text that a shell is given in its arguments (`sh -c TEXT`), if this is a shell."""
    if not argv or posixpath.basename(argv[0]).lstrip("-") not in _SHELLS:
        return None
    for number, argument in enumerate(argv[1:-1], 1):
        if argument.startswith("-") and not argument.startswith("--") and "c" in argument:
            return argv[number + 1]
    return None
