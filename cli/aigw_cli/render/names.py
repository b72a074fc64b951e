"""`aigw status --models`: every name that clients can ask for, and the backends that would answer."""

from rich.text import Text

from aigw_cli.render.look import Column, Look, Row, fitted, state_text
from aigw_cli.render.text import clean
from aigw_daemon.control.schema import NameInfo

_COLUMNS = (Column("NAME"), Column("KIND"), Column("STATE"), Column("BACKENDS"))


def name_lines(names: list[NameInfo], look: Look) -> list[Text]:
    """One row per name, in the order in which names are looked up."""
    if not names:
        return [Text("no names: the profile has no routes, and no backend lists a model", style="dim")]
    heading, rows = fitted(_COLUMNS, ("BACKENDS", "KIND"), [_row(name, look) for name in names], look, _fact)
    return [heading, *(line for row in rows for line in row)]


def _row(name: NameInfo, look: Look) -> Row:
    kind = f"alias of {clean(name.alias_of)}" if name.alias_of else clean(name.kind)
    return {
        "NAME": Text(clean(name.name)),
        "KIND": Text(kind),
        "STATE": state_text(name.state, look) if name.state else Text("-", style="dim"),
        "BACKENDS": Text(",".join(clean(backend) for backend in name.backends) or "-"),
    }


def _fact(_: str, value: str) -> str:
    return "" if value == "-" else value
