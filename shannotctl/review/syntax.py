"""Syntax colours: which parts of a text are keywords, strings, comments."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from shannotctl.review.spans import Line, Span
from shannotd.wire.submission import ScriptKind

if TYPE_CHECKING:
    from pygments.token import _TokenType

# Who hands a text in chooses the lexer as well, by the name, and to many lexers something takes
# the square of its length: what is larger, has longer lines or takes longer has no colours.
_LARGEST = 128 * 1024
_LONGEST_LINE = 1000
_MOST_SECONDS = 0.5


@lru_cache(maxsize=64)
def lexer_for(path: str, first_line: str = "") -> Any:
    """The lexer for a file's name, or its `#!` line; None where nobody knows."""
    from pygments.lexers import get_lexer_for_filename, guess_lexer
    from pygments.util import ClassNotFound

    name = path.rpartition("/")[2]
    try:
        return get_lexer_for_filename(name, stripnl=False)
    except ClassNotFound:
        pass
    if name.endswith((".conf", ".cfg", ".ini", ".service", ".timer", ".socket", ".repo")):
        from pygments.lexers import IniLexer

        return IniLexer(stripnl=False)
    if first_line.startswith("#!"):
        try:
            return guess_lexer(first_line + "\n", stripnl=False)
        except ClassNotFound:
            return None
    return None


def script_lexer(kind: ScriptKind, name: str, first_line: str) -> Any:
    """The lexer for what a submitter handed in."""
    from pygments.lexers import BashLexer, PythonLexer

    if kind is ScriptKind.PYTHON:
        return PythonLexer(stripnl=False)
    if kind is ScriptKind.SHELL:
        return BashLexer(stripnl=False)
    if kind is ScriptKind.FILE:
        return lexer_for(name, first_line) or (
            None if first_line[:2] == "#!" else PythonLexer(stripnl=False)
        )
    return None


def coloured(texts: Sequence[str], lexer: Any) -> list[Line]:
    """The lines `texts`, safe already, that stand below one another, with syntax roles."""
    uncoloured: list[Line] = [(Span("", text),) if text else () for text in texts]
    if lexer is None or sum(map(len, texts)) > _LARGEST:
        return uncoloured
    if any(len(text) > _LONGEST_LINE for text in texts):
        return uncoloured
    end = time.thread_time() + _MOST_SECONDS
    lines: list[Line] = []
    current: list[Span] = []
    for kind, value in lexer.get_tokens("\n".join(texts) + "\n"):
        if time.thread_time() > end:
            return uncoloured
        role = _role(kind)
        first, *rest = value.split("\n")
        if first:
            current.append(Span(role, first))
        for piece in rest:
            lines.append(tuple(current))
            current = [Span(role, piece)] if piece else []
    lines.append(tuple(current))
    # A lexer may take blank lines away, or blanks: what is shown is the text, whatever it says.
    if [("".join(span.text for span in line)) for line in lines[: len(texts)]] != list(texts):
        return uncoloured
    return lines[: len(texts)]


def _role(kind: _TokenType) -> str:
    from pygments.token import Comment, Keyword, Name, Number, String

    if kind in Comment:
        return "comment"
    if kind in Keyword or kind in Name.Tag:
        return "keyword"
    if kind in String:
        return "string"
    if kind in Number:
        return "number"
    if (
        kind in Name.Function
        or kind in Name.Class
        or kind in Name.Builtin
        or kind in Name.Attribute
    ):
        return "name"
    return ""
