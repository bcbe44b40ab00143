"""How roles look. Only the terminal's own 16 colours, over its own background: so it is readable
on dark and on light ones, and as a person has set them. Every colour comes with a word or a mark.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from prompt_toolkit.output.color_depth import ColorDepth
from prompt_toolkit.styles import Attrs, Style

# Not the terminal's grey (bright black), which in some palettes is the ground itself.
_FAINT = "dim" if "dim" in Attrs._fields else ""

STYLE = Style.from_dict(
    {
        "title": "bold",
        "heading": "underline",
        "bar": "reverse",
        "bar key": "bold",
        "bar risk danger": "noreverse bold",
        "key": "bold",
        "faint": _FAINT,
        "mark": "bold",
        "cursor": "reverse",
        "here": "bold",
        "chosen": "bold",
        "safe": "fg:ansigreen",
        "good": "fg:ansigreen",
        "caution": "fg:ansiyellow",
        "warning": "fg:ansiyellow",
        "waiting": "fg:ansiyellow",
        "unknown": "fg:ansimagenta",
        "active": "fg:ansiblue",
        "danger": "fg:ansired bold",
        "bad": "fg:ansired bold",
        "lost": "fg:ansired bold reverse",
        "added": "fg:ansigreen",
        "removed": "fg:ansired",
        "hunk": "fg:ansicyan",
        "sign": "bold",
        "word": "reverse",
        "match": "bold reverse",
        "dropped": "strike",
        "comment": "italic",
        "keyword": "fg:ansiblue",
        "string": "fg:ansicyan",
        "number": "fg:ansimagenta",
        "name": "bold",
        "prompt": "bold",
        "notice": "bold",
        "busy": "italic",
        "rule danger": "fg:ansired",
    }
)


def colour_depth(environment: Mapping[str, str] = os.environ) -> ColorDepth:
    """No colour where that is wished for (https://no-color.org) or the terminal has none; else
    the 16 that all have."""
    if environment.get("NO_COLOR") or environment.get("TERM", "") in ("vt100", "vt102", "vt220"):
        return ColorDepth.DEPTH_1_BIT
    return ColorDepth.DEPTH_4_BIT
