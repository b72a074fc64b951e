"""`aigw events`: when, which backend, what, and a sentence where there is more to say."""

from datetime import datetime
from typing import Any

from rich.text import Text

from aigw_cli.render.look import Look, hanging
from aigw_cli.render.text import clean

_NAME_WIDTH = 16
_WORD_WIDTH = 12
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
    """One event. Its sentence stands beside it in plain text, and on a screen below it, where it has room."""
    word, sentence = clean(str(event.get("event") or "")), str(event.get("text") or "")
    when = datetime.fromtimestamp(event.get("at") or 0).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    line = Text(f"{when}  ", style="dim", no_wrap=True, overflow="ellipsis")
    line.append(clean(str(event.get("backend") or "")).ljust(_NAME_WIDTH), style="not dim").append("  ")
    line.append(word.ljust(_WORD_WIDTH), style=f"not dim {_STYLES.get(word, '')}".strip())
    if look.plain:
        line.append(f"  {clean(sentence)}")
    line.rstrip()
    return [line, *(hanging(sentence, look.width, indent=" " * 4) if sentence and not look.plain else [])]
