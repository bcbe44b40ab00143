"""What commands print while a plan is applied, line by line as it comes."""

from __future__ import annotations

from collections.abc import Iterator

from shannotctl.protocol import CommandPrinted, Event, StepApplied
from shannotctl.render.layout import in_gutter
from shannotctl.render.style import Style
from shannotd.wire.text import visible

_LONGEST_BYTES = 4096  # of a line that has no end yet


class PrintedLines:
    """Puts pieces of output together to lines; `named`, where they are of several sessions."""

    def __init__(self, *, named: bool = False) -> None:
        self._named = named
        self._begun: dict[tuple[str, int, str], bytes] = {}

    def lines(self, event: Event, style: Style) -> Iterator[str]:
        """The lines that `event` completes, right of a gutter.

        The end of a step completes what its command printed last.
        """
        if isinstance(event, CommandPrinted):
            key = (event.id, event.step, event.stream)
            *lines, begun = (self._begun.pop(key, b"") + event.data).split(b"\n")
            if len(begun) > _LONGEST_BYTES:
                lines.append(begun)
            elif begun:
                self._begun[key] = begun
            for line in lines:
                yield from self._shown(line, key, style)
        elif isinstance(event, StepApplied):
            for stream in ("stdout", "stderr"):
                key = (event.id, event.step, stream)
                begun = self._begun.pop(key, b"")
                if begun:
                    yield from self._shown(begun, key, style)

    def _shown(self, line: bytes, key: tuple[str, int, str], style: Style) -> Iterator[str]:
        identifier, step, stream = key
        start = f"{visible(identifier)} " if self._named else "  "
        text = line.decode("utf-8", "surrogateescape")
        role = "warning" if stream == "stderr" else ""
        yield from in_gutter(text, style, indent=f"{start}step {step + 1} ", role=role)
