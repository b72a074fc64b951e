"""`aigw why`: the sentence, the log lines that show it, the next step."""

from rich.text import Text

from aigw_cli.render.look import Look, hanging, state_style
from aigw_daemon.control.schema import Why

_INDENT = "  "


def why_lines(told: Why, look: Look) -> list[Text]:
    """For a person."""
    style = "green" if told.well else state_style(told.state)
    lines = hanging(f"{told.name} {told.sentence}", look.width, indent="", further=_INDENT, style=style)
    for line in told.lines:
        lines += hanging(line, look.width, indent=f"{_INDENT}| ", style="dim") or [Text(f"{_INDENT}|", style="dim")]
    if told.next:
        lines += hanging(told.next, look.width, indent=_INDENT, style="cyan")
    return lines
