"""`aigw events`: when, which backend, what, and a sentence where there is more to say."""

from datetime import datetime
from typing import Any

from rich.text import Text

from aigw_cli.render.look import GAP, Look, hanging, packed
from aigw_cli.render.text import clean

_NAME_WIDTH = 16
_WORD_WIDTH = 12
_INDENT = " " * 4
_STYLES = {
    "ready": "green",
    "crash": "red",
    "hung": "red",
    "lost": "red",
    "start failed": "red",
    "failed": "red",
    "sweep": "yellow",
    "restart": "yellow",
}


def event_lines(event: dict[str, Any], look: Look) -> list[Text]:
    """One event. Its sentence stands beside it in plain text, and on a screen below it, where it has room.

    What doesn't fit beside the event's word moves below it too: first the date, then the backend.
    """
    word, sentence = clean(str(event.get("event") or "")), str(event.get("text") or "")
    name = clean(str(event.get("backend") or ""))
    date, _, clock = _when(event).partition(" ")
    facts: list[str] = []
    room = look.width - 2 * len(GAP) - len(word)
    if len(f"{date} {clock}") + max(len(name), _NAME_WIDTH) > room:
        facts.append(date)
    if facts and len(clock) + len(name) > room:
        facts.insert(0, name)
    line = Text(clock if facts else f"{date} {clock}", style="dim").append(GAP)
    if name not in facts:
        line.append(name if facts else name.ljust(_NAME_WIDTH), style="not dim").append(GAP)
    line.append(word.ljust(_WORD_WIDTH), style=f"not dim {_STYLES.get(word, '')}".strip())
    if look.plain:
        line.append(f"  {clean(sentence)}")
    line.rstrip()
    below = hanging(sentence, look.width, indent=_INDENT) if sentence and not look.plain else []
    return [line, *packed(facts, look.width, indent=_INDENT), *below]


def _when(event: dict[str, Any]) -> str:
    return datetime.fromtimestamp(event.get("at") or 0).astimezone().strftime("%Y-%m-%d %H:%M:%S")
