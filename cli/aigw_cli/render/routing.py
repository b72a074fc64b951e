"""`aigw test-routing`: the candidates in the order in which they would be tried, and what holds for them."""

import json
from collections.abc import Iterable, Iterator

from rich.text import Text

from aigw_cli.render.look import Column, Look, Row, fitted, hanging, packed
from aigw_cli.render.text import clean, duration
from aigw_daemon.control.schema import CandidateInfo, HopLimits, RouteAnswer, RouteParameters

_COLUMNS = (Column("TRY", right=True), Column("BACKEND"), Column("MODEL"), Column("REASON"))

_MATCHED = {
    "route": "by its route",
    "alias": "by an alias",
    "direct": "as backend/model",
    "listed": "as a model that a backend lists",
    "cloud": "as a model of a cloud",
    "pattern": "by the pattern",
    "capability": "as a capability",
}
"""How a name was resolved; the word of a newer daemon is shown as it is."""
_COLD = {
    "wait": "a request waits for a cold start",
    "bridge": "while one starts, the next candidate answers",
    "reject": "a backend that must start answers 503 and starts",
}
_OVERFLOW = {
    "queue": "a full backend queues the request; a full queue passes it on to the next candidate",
    "spill": "a full backend passes the request on to the next candidate at once",
}
_CHAT = "chat/completions"


def routing_lines(answer: RouteAnswer, look: Look, *, explain: bool) -> list[Text]:
    """The kept candidates; with ``explain``, or when nothing is left, the skipped ones and every limit as well."""
    kept = [candidate for candidate in answer.candidates if candidate.kept]
    shown = answer.candidates if explain or not kept else kept
    lines = [_title(answer)]
    if shown:
        heading, rows = fitted(_COLUMNS, ("REASON", "MODEL"), _rows(shown), look)
        lines += [Text(), heading, *(line for row in rows for line in row)]
    facts = [fact for fact in (_explained(answer, shown) if explain else _starts(kept)) if fact[1]]
    if facts:
        lines += [Text(), *_labelled(facts, look)]
    for warning in answer.warnings:
        lines += [Text(), *hanging(f"warning: {warning}", look.width, indent="", further="  ", style="yellow")]
    return [*lines, *_end(answer, len(answer.candidates) - len(shown), look, left=bool(kept))]


def _title(answer: RouteAnswer) -> Text:
    how = _MATCHED.get(answer.matched or "", f"as {clean(answer.matched or '')}")
    if answer.route not in {None, answer.model}:
        how += f" {clean(answer.route or '')}"
    if answer.endpoint != _CHAT:
        how += f", for {clean(answer.endpoint)}"
    return Text(clean(answer.model), style="bold").append(f"  matched {how}", style="dim not bold")


def _end(answer: RouteAnswer, skipped: int, look: Look, *, left: bool) -> list[Text]:
    if answer.instead is not None:
        names = ", ".join(clean(name) for name in answer.instead)
        done = f"no candidate supports {clean(answer.endpoint)}"
        said = f"{done}; models that do: {names}" if names else f"{done}, and no other model of the profile does"
        return [Text(), *hanging(said, look.width, indent="", style="red")]
    if not left:
        said = "no candidate can answer, for the reasons above; 'aigw why BACKEND' explains one"
        return [Text(), *hanging(said, look.width, indent="", style="red")]
    return [Text(), Text(f"{skipped} skipped: --explain shows why", style="dim")] if skipped else []


def _rows(candidates: list[CandidateInfo]) -> list[Row]:
    rows: list[Row] = []
    turn = 0
    for candidate in candidates:
        turn += candidate.kept
        reason = clean(candidate.reason) + (" (fallback)" if candidate.fallback else "")
        rows.append(
            {
                "TRY": Text(str(turn)) if candidate.kept else Text("-", style="dim"),
                "BACKEND": Text(clean(candidate.backend), style="" if candidate.kept else "dim"),
                "MODEL": Text(clean(candidate.model), style="" if candidate.kept else "dim"),
                "REASON": Text(reason, style=("cyan" if candidate.cold else "dim") if candidate.kept else "yellow"),
            }
        )
    return rows


Fact = tuple[str, list[str]]
"""A label, and what there is to say under it."""


def _labelled(facts: list[Fact], look: Look) -> list[Text]:
    width = max(len(label) for label, _ in facts) + 2
    lines: list[Text] = []
    for label, parts in facts:
        first, *further = packed(parts, look.width - width, indent="", style="")
        lines.append(Text(label.ljust(width), style="dim").append_text(first))
        lines += [Text(" " * width).append_text(line) for line in further]
    return lines


def _starts(kept: Iterable[CandidateInfo]) -> Iterator[Fact]:
    """What a request would wait for."""
    for candidate in kept:
        if candidate.cold and candidate.limits is not None:
            yield clean(candidate.backend), list(_start(candidate.limits))


def _start(limits: HopLimits) -> Iterator[str]:
    took = limits.last_start_s
    yield f"last start took {duration(took)}" if took is not None else "start time not known yet"
    if limits.cold_timeout is not None:
        yield f"a request waits up to {duration(limits.cold_timeout)} for it"


def _explained(answer: RouteAnswer, shown: list[CandidateInfo]) -> Iterator[Fact]:
    told: set[str] = set()
    for candidate in shown:
        if candidate.limits is not None and candidate.backend not in told:
            told.add(candidate.backend)
            yield clean(candidate.backend), list(_limits(candidate, candidate.limits))
    yield from _policies(answer)


def _limits(candidate: CandidateInfo, limits: HopLimits) -> Iterator[str]:
    if limits.circuit:
        yield f"circuit open: {clean(limits.circuit)}"
    if candidate.cold:
        yield from _start(limits)
    places = limits.max_concurrency
    yield f"{limits.in_flight} of {places} slots in use" if places else f"{limits.in_flight} in flight, no limit"
    if places:
        yield f"{limits.waiting} of {limits.max_queue} waiting"
    first = limits.first_token_timeout
    yield (
        f"first token within {duration(first)}"
        if first is not None
        else "no first-token limit while the engine is computing"
    )
    if limits.gap_timeout is not None:
        yield f"at most {duration(limits.gap_timeout)} between tokens"


def _policies(answer: RouteAnswer) -> Iterator[Fact]:
    yield "request", list(_request(answer))
    if answer.balance != "order":
        yield "balance", [_balance(answer)]
    if any(candidate.cold for candidate in answer.candidates):
        yield "cold", [_COLD.get(answer.cold, clean(answer.cold))]
    if any(each.limits is not None and each.limits.max_concurrency for each in answer.candidates):
        yield "full", [_OVERFLOW.get(answer.overflow, clean(answer.overflow))]
    if answer.parameters is not None:
        yield "fields", list(_fields(answer.parameters))
    if answer.on_context_overflow:
        chain = (_hop(candidate) for candidate in answer.on_context_overflow)
        yield "too long", ["overlong prompts go to " + ", then ".join(chain)]


def _request(answer: RouteAnswer) -> Iterator[str]:
    if answer.request_timeout is not None:
        yield f"{duration(answer.request_timeout)} in total"
    if answer.max_attempts is not None:
        yield "1 attempt" if answer.max_attempts == 1 else f"at most {answer.max_attempts} attempts"
    if answer.queue_timeout is not None:
        yield f"at most {duration(answer.queue_timeout)} in a queue"


def _balance(answer: RouteAnswer) -> str:
    equal = [each for each in answer.candidates if each.kept and not each.fallback]
    shares = ", ".join(f"{clean(each.backend)} {each.weight}" for each in equal)
    if answer.balance == "least_busy":
        return f"the least busy first, per weight: {shares}"
    return f"by weight: {shares}" if answer.balance == "weighted" else clean(answer.balance)


def _fields(parameters: RouteParameters) -> Iterator[str]:
    for name, value in parameters.defaults.items():
        yield f"{clean(name)} = {clean(json.dumps(value))} unless the request sets it"
    for name, value in parameters.override.items():
        yield f"{clean(name)} = {clean(json.dumps(value))} always"
    if parameters.drop:
        yield f"without {', '.join(clean(name) for name in parameters.drop)}"


def _hop(candidate: CandidateInfo) -> str:
    hop = f"{clean(candidate.model)} at {clean(candidate.backend)}"
    return hop if candidate.kept else f"{hop} (skipped: {clean(candidate.reason)})"
