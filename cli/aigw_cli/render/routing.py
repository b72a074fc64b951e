"""`aigw test-routing`: the candidates in the order in which they would be tried."""

from rich.text import Text

from aigw_cli.render.look import Column, Look, Row, hanging, table
from aigw_cli.render.text import clean
from aigw_daemon.control.schema import CandidateInfo, RouteAnswer

_COLUMNS = (Column("TRY", right=True), Column("BACKEND"), Column("MODEL"), Column("REASON"))

_MATCHED = {
    "route": "by its route",
    "alias": "by an alias",
    "direct": "as backend/model",
    "listed": "as a model that a backend lists",
    "pattern": "by a pattern",
}
"""How a name was resolved; the word of a newer daemon is shown as it is."""


def routing_lines(answer: RouteAnswer, look: Look, *, explain: bool) -> list[Text]:
    """The kept candidates; with ``explain``, or when nothing is left, the skipped ones as well."""
    kept = [candidate for candidate in answer.candidates if candidate.kept]
    how = _MATCHED.get(answer.matched or "", f"as {clean(answer.matched or '')}")
    lines = [Text(clean(answer.model), style="bold").append(f"  matched {how}", style="dim")]
    shown = answer.candidates if explain or not kept else kept
    if shown:
        lines += [Text(), *table(_COLUMNS, _rows(shown))]
    skipped = len(answer.candidates) - len(shown)
    if not kept:
        lines += [
            Text(),
            *hanging("nothing could answer now: 'aigw status' shows why", look.width, indent="", style="red"),
        ]
    elif skipped:
        lines += [Text(), Text(f"{skipped} skipped: --explain says why", style="dim")]
    return lines


def _rows(candidates: list[CandidateInfo]) -> list[Row]:
    rows: list[Row] = []
    turn = 0
    for candidate in candidates:
        turn += candidate.kept
        rows.append(
            {
                "TRY": Text(str(turn)) if candidate.kept else Text("-", style="dim"),
                "BACKEND": Text(clean(candidate.backend), style="" if candidate.kept else "dim"),
                "MODEL": Text(clean(candidate.model), style="" if candidate.kept else "dim"),
                "REASON": Text(clean(candidate.reason), style="dim" if candidate.kept else "yellow"),
            }
        )
    return rows
