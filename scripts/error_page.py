"""Writes docs/errors.md from the classes of shannotd/wire/errors.py."""

from __future__ import annotations

from pathlib import Path

from shannotd.wire.errors import ERRORS, ShannotError

PAGE = Path(__file__).resolve().parents[1] / "docs" / "errors.md"

_HEAD = """\
# Errors

Every failure that a caller can meet has a code, a message and an exit status of `shannotctl`.
The words in braces are details: they travel beside the code (`error.details` in
[JSON](json.md)), so that a program needs not read the prose. A test compares this page with
the code; `python -m scripts.error_page` writes it anew.

| code | exit status | message |
|---|---|---|
"""


def error_page() -> str:
    """The page as it should be."""
    return _HEAD + "".join(_row(ERRORS[code]) for code in sorted(ERRORS))


def _row(error: type[ShannotError]) -> str:
    message = " ".join((error.__doc__ or "").split()).replace("|", "\\|")
    return f"| `{error.code}` | {error.exit_status} | {message} |\n"


if __name__ == "__main__":
    PAGE.write_text(error_page(), encoding="utf-8")
