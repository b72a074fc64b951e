"""Where a command prints: a terminal, plain text, or JSON. The only place that knows which of them it is."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.text import Text

from aigw_cli.render.look import PLAIN_WIDTH, Look
from aigw_daemon.control.codec import plain

_REDRAWS_PER_SECOND = 8
_NARROWEST = 40


class Screen:
    """The output of one command.

    With ``as_json``, `document` and `record` are what is printed; else `show` is. A stream that isn't a terminal (or
    a dumb one) gets plain text: no colours, no glyphs, no cursor movement, nothing cut at a width.
    """

    def __init__(self, *, as_json: bool = False, out: TextIO | None = None) -> None:
        self.as_json = as_json
        self._out = out or sys.stdout
        self.interactive = self._out.isatty() and os.environ.get("TERM", "dumb") not in {"dumb", "unknown", ""}
        self.console = Console(
            file=self._out,
            markup=False,
            highlight=False,
            emoji=False,
            force_terminal=self.interactive,
            width=None if self.interactive else PLAIN_WIDTH,
        )

    @property
    def look(self) -> Look:
        """What can be shown just now; a terminal's width may change at any time."""
        if not self.interactive:
            return Look(width=PLAIN_WIDTH, plain=True)
        return Look(width=max(_NARROWEST, self.console.width), plain=not self._draws_glyphs())

    def show(self, lines: Iterable[RenderableType]) -> None:
        """Print lines, for a person."""
        for line in lines:
            self._print(line)
        self._out.flush()

    def document(self, value: Any) -> None:
        """Print one JSON document."""
        self._write(json.dumps(plain(value), indent=2))

    def record(self, value: Any) -> None:
        """Print one line of NDJSON, and send it off at once: somebody may be waiting for it."""
        self._write(json.dumps(plain(value)))

    @contextmanager
    def live(self, *, full: bool = False) -> Iterator[Callable[[Iterable[RenderableType]], None]]:
        """A view that is redrawn in place; only for an interactive screen.

        ``full`` takes the whole terminal and gives it back as it was; else what was drawn last is wiped at the end.
        """
        # Only a screen that is redrawn needs it, and it takes its time to import.
        from rich.live import Live  # noqa: PLC0415

        live = Live(
            console=self.console,
            screen=full,
            transient=True,
            refresh_per_second=_REDRAWS_PER_SECOND,
            vertical_overflow="crop" if full else "ellipsis",
        )
        with live:
            yield lambda lines: live.update(Group(*lines), refresh=True)

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """Say what is being waited for, where it can be taken back afterwards."""
        if not self.interactive or self.as_json:
            yield
            return
        with self.console.status(Text(what, style="dim"), spinner_style="cyan"):
            yield

    def _print(self, line: RenderableType) -> None:
        if not self.interactive:
            self._write(line.plain.rstrip() if isinstance(line, Text) else str(line))
        elif isinstance(line, Text):
            # print() joins texts into a new one, which forgets how they are to be cut.
            self.console.print(line, no_wrap=line.no_wrap, overflow=line.overflow)
        else:
            # A bare string is there to be copied: the terminal may wrap it, but no line break gets into it.
            self.console.print(line, soft_wrap=True)

    def _write(self, line: str) -> None:
        self._out.write(line + "\n")
        self._out.flush()

    def _draws_glyphs(self) -> bool:
        return (self.console.encoding or "").lower().replace("-", "").startswith("utf")
