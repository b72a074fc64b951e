"""`aigw profile list`: name, what it is for, where it lies; and what is wrong with those that can't be used."""

from rich.text import Text

from aigw_cli.render.look import Column, Look, Row, fitted, hanging
from aigw_cli.render.text import clean
from aigw_daemon.control.schema import ProfileInfo

_COLUMNS = (Column("NAME"), Column("ACTIVE"), Column("STATE"), Column("FILE"))
_PROBLEMS_SHOWN = 3


def profile_lines(profiles: list[ProfileInfo], look: Look) -> list[Text]:
    """One row per profile; its description and problems below."""
    if not profiles:
        return [Text("no profiles")]
    rows = [_row(profile) for profile in profiles]
    heading, body = fitted(_COLUMNS, ("FILE",), rows, look, lambda _, value: "" if value == "-" else value)
    lines = [heading]
    for profile, row in zip(profiles, body, strict=True):
        lines += [*row, *_below(profile, look)]
    return lines


def _row(profile: ProfileInfo) -> Row:
    return {
        "NAME": Text(clean(profile.name), style="bold" if profile.active else ""),
        "ACTIVE": Text("active", style="green") if profile.active else Text("-", style="dim"),
        "STATE": Text("invalid", style="red") if profile.problems else Text("ok"),
        "FILE": Text(clean(profile.path)),
    }


def _below(profile: ProfileInfo, look: Look) -> list[Text]:
    lines: list[Text] = []
    if profile.description:
        lines += hanging(profile.description, look.width, indent="  ", style="dim")
    for problem in profile.problems[:_PROBLEMS_SHOWN]:
        lines += hanging(problem, look.width, indent="  ", style="red")
    more = len(profile.problems) - _PROBLEMS_SHOWN
    if more > 0:
        rest = f"and {more} more: 'aigw profile validate {clean(profile.name)}'"
        lines += hanging(rest, look.width, indent="  ", style="red")
    return lines
