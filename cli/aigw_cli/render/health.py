"""`aigw health`: one line of verdict, one per provider, and the reasons."""

import time
from datetime import datetime
from typing import Any

from rich.text import Text

from aigw_cli.render.look import Column, Look, Row, fitted, hanging, state_style, state_text
from aigw_cli.render.text import clean, counted, duration
from aigw_daemon.control.schema import HealthReport

_VERDICTS = {"ok": "green", "degraded": "yellow"}
_COLUMNS = (
    Column("PROVIDER"),
    Column("ENGINE"),
    Column("STATE"),
    Column("FOR", right=True),
    Column("MODELS", right=True),
)

_GIVE_WAY = ("ENGINE", "MODELS", "FOR")


def health_lines(report: HealthReport, look: Look, now: float | None = None) -> list[Text]:
    """The verdict first; ``now`` is seconds since the epoch, for the ages of states."""
    moment = time.time() if now is None else now
    lines = [Text(clean(report.status), style=f"bold {_VERDICTS.get(report.status, 'red')}")]
    for reason in report.reasons:
        lines += hanging(reason, look.width, indent="  ")
    if report.providers:
        lines += [Text(), *_providers(report.providers, look, moment)]
    return lines


def _providers(providers: dict[str, Any], look: Look, now: float) -> list[Text]:
    facts = {name: value if isinstance(value, dict) else {} for name, value in providers.items()}
    rows = [_row(name, fact, look, now) for name, fact in facts.items()]
    heading, body = fitted(_COLUMNS, _GIVE_WAY, rows, look, _fact)
    lines = [heading]
    for fact, row in zip(facts.values(), body, strict=True):
        lines += row
        if fact.get("why"):
            style = state_style(str(fact.get("state", "")))
            lines += hanging(str(fact["why"]), look.width, indent="  ", style=style)
    return lines


def _fact(title: str, value: str) -> str:
    if value == "-":
        return ""
    if title == "MODELS":
        return counted(int(value), "model")
    return f"for {value}" if title == "FOR" else value


def _row(name: str, fact: dict[str, Any], look: Look, now: float) -> Row:
    models = fact.get("models")
    return {
        "PROVIDER": Text(clean(name)),
        "ENGINE": Text(clean(str(fact.get("engine") or "-"))),
        "STATE": state_text(str(fact.get("state") or "-"), look),
        "FOR": Text(_age(fact.get("since"), now)),
        "MODELS": Text(str(len(models)) if isinstance(models, list) else "-"),
    }


def _age(since: Any, now: float) -> str:
    """A moment as seconds since the epoch, or as ISO 8601 text."""
    if isinstance(since, str):
        try:
            since = datetime.fromisoformat(since).timestamp()
        except ValueError:
            return clean(since)
    return duration(now - since) if isinstance(since, int | float) else "-"
