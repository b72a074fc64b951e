"""The deltas of a chat stream joined into one message, as OpenAI's clients do. Pure.

Anything that engines mean in more than one way, or that those clients would join into something else, raises
`NoOtherForm`.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

Fields = dict[str, Any]

_EMPTY: Final[tuple[Any, ...]] = (None, "", [], {})
_TEXTS: Final = frozenset({"content", "reasoning_content", "reasoning", "refusal"})
_ARGUMENTS: Final = frozenset({"arguments", "input"})
"""Of functions, and of custom tools."""

_decode = msgspec.json.Decoder().decode


class NoOtherForm(Exception):
    """The answer can't be brought into the other form for certain."""


class Call(msgspec.Struct):
    """A tool call that is being joined."""

    index: int | None
    fields: Fields


def join_delta(message: Fields, delta: Mapping[str, Any]) -> None:
    """Add a delta to a message, whose ``tool_calls`` are `Call`s until `finished_calls`. Raises NoOtherForm."""
    for name, value in delta.items():
        match name, value:
            case "tool_calls", list():
                calls = message[name] = message.get(name) or []
                for piece in value:
                    _join_call(calls, piece)
            case "function_call", dict():
                call = message[name] = message.get(name) or {}
                _join_function(call, value, named_again=False)
            case _, str() if name in _TEXTS:
                message[name] = (message.get(name) or "") + value
            case "role", str():
                set_once(message, name, value)
            case (("content" | "audio"), _) if value is not None:
                # Parts may be pieces of one part, and base64 can't be joined.
                raise NoOtherForm(f"{name} comes in a form whose pieces can't be joined")
            case _:
                _set_only(message, name, value)


def finished_calls(calls: Iterable[Call]) -> list[Fields]:
    """Return the calls in their order, without their index."""
    ordered = list(calls)
    indexes = [call.index for call in ordered]
    if None in indexes:
        if any(index is not None for index in indexes):
            raise NoOtherForm("only some tool calls have an index")
        return [call.fields for call in ordered]
    if len(set(indexes)) < len(indexes):
        for call in ordered:
            _check_arguments(call.fields)
    return [call.fields for call in sorted(ordered, key=lambda call: call.index or 0)]


def set_once(whole: Fields, name: str, value: Any) -> None:
    """Take over a value that engines may repeat but not change. Raises NoOtherForm for another one."""
    if value in _EMPTY:
        whole.setdefault(name, value)
    elif whole.get(name) in _EMPTY:
        whole[name] = value
    elif whole[name] != value:
        raise NoOtherForm(f"{name} is said twice, in different ways")


def _set_only(whole: Fields, name: str, value: Any) -> None:
    """Take over a value that nobody knows how to join to another one."""
    before = whole.get(name)
    if before is None:
        whole[name] = value
    elif value is None or (value in _EMPTY and type(value) is type(before)):
        pass
    elif before in _EMPTY and type(value) is type(before):
        whole[name] = value
    else:
        raise NoOtherForm(f"{name} comes in pieces that nobody knows how to join")


def _join_call(calls: list[Call], piece: Fields) -> None:
    index, id_ = piece.get("index"), piece.get("id") or None
    if index is not None and type(index) is not int:
        raise NoOtherForm(f"a tool call has the index {index!r}")
    call = _continued(calls, index, id_)
    named_again = call is not None and id_ is not None
    if call is None:
        call = Call(index, {})
        calls.append(call)
    for name, value in piece.items():
        match name, value:
            case "index", _:
                pass
            case (("function" | "custom"), dict()):
                function = call.fields[name] = call.fields.get(name) or {}
                _join_function(function, value, named_again=named_again)
            case (("id" | "type"), _):
                set_once(call.fields, name, value)
            case _:
                _set_only(call.fields, name, value)


def _continued(calls: list[Call], index: int | None, id_: str | None) -> Call | None:
    """Return the call that a piece continues; None if it begins a new one, as a new id always does."""
    if id_ is None:
        if index is None:
            raise NoOtherForm("a piece of a tool call has neither index nor id")
        return next((call for call in reversed(calls) if call.index == index), None)
    known = [call for call in calls if call.fields.get("id") == id_ and index in {None, call.index}]
    if len(known) > 1:
        raise NoOtherForm("two tool calls have one id")
    if known:
        return known[0]
    if any(call.index == index and not call.fields.get("id") for call in calls):
        raise NoOtherForm("a tool call gets its id late, or two have one index")
    return None


def _join_function(function: Fields, piece: Mapping[str, Any], *, named_again: bool) -> None:
    """``named_again``: the piece says whose it is by an id, so its name may be a mere repetition."""
    for name, value in piece.items():
        if name in _ARGUMENTS and isinstance(value, str) and isinstance(function.get(name, ""), str | None):
            function[name] = (function.get(name) or "") + value
        elif name == "name" and named_again:
            set_once(function, name, value)
        else:
            _set_only(function, name, value)


def _check_arguments(call: Fields) -> None:
    """Where calls share an index, what was joined must at least make sense."""
    arguments = (call.get("function") or {}).get("arguments")
    if isinstance(arguments, str) and arguments:
        try:
            _decode(arguments)
        except ValueError as error:
            raise NoOtherForm("the arguments of tool calls that have one index are no JSON") from error
