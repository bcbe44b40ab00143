"""The pictures and the recording of docs/reviewing.md are what they say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
PAGE = (PICTURES.parent / "reviewing.md").read_text(encoding="utf-8")


def shown(svg: str) -> str:
    """The text of a picture."""
    pieces = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    return "".join(pieces).replace("&#160;", " ").replace("&#x27;", "'")


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("list", ["4 pending", "deploy-key", "rotate\\e[2J-logs", "Enter"]),
        ("session", ["CAUTION", "Uploads fail with status 413", "1 command on the host"]),
        ("diff", ["server_tokens", "13", "side by side"]),
        ("danger", ["DANGER", "Type `yes, danger`", "authorized_keys"]),
        ("escapes", ["disguise", "\\e[2Jrotate"]),
        ("executed", ["5 done", "takes the session back", "✓"]),
    ],
)
def test_a_picture_shows_what_the_page_tells(name: str, texts: list[str]) -> None:
    assert f"pictures/{name}.svg" in PAGE
    text = shown((PICTURES / f"{name}.svg").read_text(encoding="utf-8"))
    for wanted in texts:
        assert wanted in text, wanted


def test_the_recording_takes_a_minute() -> None:
    header, *events = (PICTURES / "review.cast").read_text(encoding="utf-8").splitlines()
    assert json.loads(header)["version"] == 2
    times = [json.loads(event)[0] for event in events]
    assert times == sorted(times) and 50 <= times[-1] <= 65
    printed = "".join(json.loads(event)[2] for event in events)
    assert "shannotctl review" in printed and "Apply this plan" in printed


def test_every_picture_is_on_the_page() -> None:
    for picture in PICTURES.glob("*.svg"):
        assert picture.name in PAGE
