"""A kept answer in its other form: a whole answer out of a stream's events, and a stream out of a whole answer. Pure.

A stream's pieces are put together by their kind, so that fields which only one engine knows come along: of strings in
a delta and of lists the pieces are joined, of everything else the last one that says something counts.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from aigw_daemon.gateway.cache.entry import STREAM_TYPE, Entry
from aigw_daemon.gateway.cache.events import DONE, DONE_EVENT, events
from aigw_daemon.link.messages import CHAT

JSON_TYPE: Final = "application/json"

Fields = dict[str, Any]


class NoOtherForm(Exception):
    """The answer can't be brought into the other form: some engine says things in a way that nobody knows of."""


_CHUNK_OBJECT: Final = "chat.completion.chunk"
_WHOLE_OBJECTS: Final = {_CHUNK_OBJECT: "chat.completion"}
_IN_EVERY_CHUNK: Final = ("id", "created", "model", "system_fingerprint", "service_tier")
_SAID_ONCE: Final = frozenset({"role", "id", "type", "name"})
"""Strings that some engines repeat in each piece."""
_THOUGHTS: Final = ("reasoning_content", "reasoning")

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def in_form(entry: Entry, *, stream: bool) -> Entry:
    """The entry as a stream or as a whole answer; the same object where it is one already. Raises NoOtherForm."""
    if entry.stream == stream:
        return entry
    try:
        return _as_stream(entry) if stream else _as_whole(entry)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        # Only the shape of the outermost fields was looked at when it was kept.
        raise NoOtherForm(f"{type(error).__name__}: {error}") from error


def _as_whole(entry: Entry) -> Entry:
    chunks = [_decode(event.data) for event in events(entry.body) if event.data != DONE]
    answer = assemble(chunks, chat=entry.origin.endpoint == CHAT)
    return msgspec.structs.replace(entry, stream=False, content_type=JSON_TYPE, body=_encode(answer), usage_frame=None)


def _as_stream(entry: Entry) -> Entry:
    answer = _decode(entry.body)
    usage = answer.pop("usage", None)
    body = b"".join(map(_event, expand(answer, chat=entry.origin.endpoint == CHAT)))
    frame = _event({**_common(answer), "choices": [], "usage": usage}) if usage is not None else b""
    place = (len(body), len(body) + len(frame)) if frame else None
    body += frame + DONE_EVENT
    return msgspec.structs.replace(entry, stream=True, content_type=STREAM_TYPE, body=body, usage_frame=place)


def _event(chunk: Fields) -> bytes:
    return b"data: %b\n\n" % _encode(chunk)


def assemble(chunks: Iterable[Fields], *, chat: bool) -> Fields:
    """The whole answer that a stream's chunks make up."""
    answer: Fields = {"choices": []}
    choices: dict[int, Fields] = {}
    for chunk in chunks:
        for name, value in chunk.items():
            if name == "choices":
                for piece in value or ():
                    _add_piece(choices.setdefault(piece.get("index", 0), {}), piece)
            elif value is not None:
                answer[name] = value
    answer["object"] = _WHOLE_OBJECTS.get(answer.get("object", ""), answer.get("object"))
    answer["choices"] = [_finished(choices[index], chat=chat) for index in sorted(choices)]
    return answer


def _add_piece(choice: Fields, piece: Fields) -> None:
    for name, value in piece.items():
        match name, value:
            case "delta", dict():
                _join(choice.setdefault("message", {}), value)
            case "text", str():
                choice["text"] = choice.get("text", "") + value
            case "logprobs", dict():
                joined: Fields = dict(choice.get("logprobs") or {})
                _join(joined, value)
                choice["logprobs"] = joined
            case _, list():
                choice[name] = (choice.get(name) or []) + value
            case _ if value is not None or name not in choice:
                choice[name] = value
            case _:
                pass


def _join(whole: Fields, delta: Mapping[str, Any]) -> None:
    for name, value in delta.items():
        before = whole.get(name)
        match value:
            case None:
                whole.setdefault(name, None)
            case list() if name == "tool_calls":
                whole[name] = _join_calls(before or [], value)
            case list():
                whole[name] = _parts(before) + value
            case str() if isinstance(before, list):
                whole[name] = before + _parts(value)
            case dict():
                joined: Fields = dict(before or {})
                _join(joined, value)
                whole[name] = joined
            case str() if name in _SAID_ONCE:
                whole[name] = before or value
            case str():
                whole[name] = (before or "") + value
            case _:
                whole[name] = value


def _parts(said: Any) -> list[Any]:
    """Content as a list of parts: some engines think in parts, and go on in plain text."""
    match said:
        case None:
            return []
        case str():
            return [{"type": "text", "text": said}] if said else []
        case list():
            return list(said)
        case _:
            raise TypeError(f"neither text nor parts: {type(said).__name__}")


def _join_calls(calls: list[Fields], pieces: Iterable[Fields]) -> list[Fields]:
    """Tool calls by their index; one without an index is a call of its own."""
    joined = list(calls)
    for piece in pieces:
        index = piece.get("index", len(joined))
        found = next((call for call in joined if call["index"] == index), None)
        if found is None:
            found = {"index": index}
            joined.append(found)
        _join(found, {name: value for name, value in piece.items() if name != "index"})
    return joined


def _finished(choice: Fields, *, chat: bool) -> Fields:
    if not chat:
        return choice
    message = choice.setdefault("message", {})
    if calls := message.get("tool_calls"):
        ordered = sorted(calls, key=lambda call: call["index"])
        message["tool_calls"] = [{name: value for name, value in call.items() if name != "index"} for call in ordered]
    # OpenAI's own answers have null here where there are only calls; its streams begin with an empty string.
    if not message.get("content"):
        message["content"] = None if calls else message.get("content")
    message.setdefault("role", "assistant")
    return choice


def expand(answer: Fields, *, chat: bool) -> Iterator[Fields]:
    """The chunks that carry all that a whole answer holds, but for its usage. ``[DONE]`` is not among them."""
    common = _common(answer)
    known = {*common, "choices", "usage", "object"}
    extra = {name: value for name, value in answer.items() if name not in known}
    if chat:
        common["object"] = _CHUNK_OBJECT
    last = len(answer["choices"]) - 1
    for number, choice in enumerate(answer["choices"]):
        index = choice.get("index", number)
        pieces = list(_chat_pieces(choice) if chat else _text_pieces(choice))
        for piece in pieces[:-1]:
            yield {**common, "choices": [{"index": index, **piece, "finish_reason": None}]}
        # What the engine said of the answer as a whole, such as llama.cpp's timings, comes with its end.
        yield {**common, **(extra if number == last else {}), "choices": [{"index": index, **pieces[-1]}]}


def _common(answer: Fields) -> Fields:
    common: Fields = {name: answer[name] for name in _IN_EVERY_CHUNK if name in answer}
    return {**common, "object": _CHUNK_OBJECT if answer.get("object") == "chat.completion" else answer.get("object")}


def _chat_pieces(choice: Fields) -> Iterator[Fields]:
    """The role, then what was thought, said and called, each in a chunk: many clients look at one of them only."""
    message = {name: value for name, value in (choice.get("message") or {}).items() if value not in (None, [])}
    rest = {name: value for name, value in choice.items() if name not in {"index", "message"}}
    yield {"delta": {"role": message.pop("role", "assistant"), "content": ""}}
    names = [*(name for name in _THOUGHTS if name in message), *(name for name in message if name not in _THOUGHTS)]
    for name in names:
        logprobs = {"logprobs": rest.pop("logprobs")} if name == "content" and "logprobs" in rest else {}
        value = _numbered(message[name]) if name == "tool_calls" else message[name]
        yield {"delta": {name: value}, **logprobs}
    yield {"delta": {}, **rest}


def _numbered(calls: Iterable[Fields]) -> list[Fields]:
    return [{**call, "index": number} for number, call in enumerate(calls)]


def _text_pieces(choice: Fields) -> Iterator[Fields]:
    rest = {name: value for name, value in choice.items() if name not in {"index", "text", "logprobs"}}
    said: Fields = {name: choice[name] for name in ("text", "logprobs") if name in choice}
    yield said
    yield {"text": "", **rest}
