"""A kept answer in its other form: a whole answer out of a stream's events, and a stream out of a whole answer. Pure.

A stream's pieces are joined as OpenAI's clients join them. Whatever those would join differently, or engines mean in
more than one way, raises `NoOtherForm`: then the engine is asked again.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from aigw_daemon.gateway.cache.deltas import Fields, NoOtherForm, finished_calls, join_delta, set_once
from aigw_daemon.gateway.cache.entry import STREAM_TYPE, Entry
from aigw_daemon.gateway.cache.events import DONE, DONE_EVENT, events
from aigw_daemon.link.messages import CHAT

JSON_TYPE: Final = "application/json"


class MadeStream(msgspec.Struct, frozen=True):
    """A stream made of a whole answer."""

    body: bytes
    usage_frame: tuple[int, int] | None
    """Place of the usage frame in the body, if there is one."""

    def replay(self, *, usage: bool) -> bytes:
        """Return the body for a client that asked for the usage frame, or didn't."""
        if usage or self.usage_frame is None:
            return self.body
        begin, end = self.usage_frame
        return self.body[:begin] + self.body[end:]


_CHUNK_OBJECT: Final = "chat.completion.chunk"
_TEXT_OBJECT: Final = "text_completion"
_WHOLE_OBJECTS: Final = {_CHUNK_OBJECT: "chat.completion"}
_IN_EVERY_CHUNK: Final = ("id", "created", "model", "system_fingerprint", "service_tier")
_LATEST_COUNTS: Final = frozenset({*_IN_EVERY_CHUNK, "object", "usage", "timings"})
"""Fields of a chunk that engines say again with newer values."""
_STREAMS_ONLY: Final = frozenset({"obfuscation", "prompt_progress"})
"""Fields of a chunk that no whole answer has."""
_THOUGHTS: Final = ("reasoning_content", "reasoning")

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def in_form(entry: Entry, *, stream: bool) -> Entry:
    """The entry as a stream or as a whole answer; the same object where it is one already. Raises NoOtherForm."""
    if entry.stream == stream:
        return entry
    chat = entry.origin.endpoint == CHAT
    if stream:
        made = made_stream(entry.body, chat=chat)
        body, frame, content_type = made.body, made.usage_frame, STREAM_TYPE
    else:
        body, frame, content_type = made_whole(entry.body, chat=chat), None, JSON_TYPE
    return msgspec.structs.replace(
        entry, stream=stream, content_type=content_type, body=body, usage_frame=frame, unasked=b""
    )


def made_whole(stream: bytes, *, chat: bool) -> bytes:
    """The whole answer, as JSON, of a stream that is complete. Raises NoOtherForm."""
    try:
        return _encode(assemble([_decode(event.data) for event in events(stream) if event.data != DONE], chat=chat))
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        # Only the shape of the outermost fields was looked at before.
        raise NoOtherForm(f"{type(error).__name__}: {error}") from error


def made_stream(whole: bytes, *, chat: bool) -> MadeStream:
    """The stream of a whole answer, with a usage frame if that has usage. Raises NoOtherForm."""
    try:
        answer = _decode(whole)
        usage = answer.pop("usage", None)
        body = b"".join(map(_event, expand(answer, chat=chat)))
        frame = _event({**_common(answer), "choices": [], "usage": usage}) if usage is not None else b""
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise NoOtherForm(f"{type(error).__name__}: {error}") from error
    place = (len(body), len(body) + len(frame)) if frame else None
    return MadeStream(body + frame + DONE_EVENT, place)


def _event(chunk: Fields) -> bytes:
    return b"data: %b\n\n" % _encode(chunk)


def assemble(chunks: Iterable[Fields], *, chat: bool) -> Fields:
    """The whole answer that a stream's chunks make up. Raises NoOtherForm, or what a chunk of a wrong shape causes."""
    answer: Fields = {"choices": []}
    choices: dict[int, Fields] = {}
    for chunk in chunks:
        for name, value in chunk.items():
            if name == "choices":
                for piece in value or ():
                    _add_piece(choices.setdefault(_index(piece), {}), piece)
            elif name in _LATEST_COUNTS and value is not None:
                answer[name] = value
            elif name not in _STREAMS_ONLY:
                set_once(answer, name, value)
    said = answer.get("object") or (_CHUNK_OBJECT if chat else _TEXT_OBJECT)
    answer["object"] = _WHOLE_OBJECTS.get(said, said)
    answer["choices"] = [_finished(choices[index], chat=chat) for index in sorted(choices)]
    return answer


def _index(piece: Fields) -> int:
    """Whose choice a piece is of; without an index it is the only one."""
    index = piece.get("index")
    if index is None:
        return 0
    if type(index) is not int:
        raise NoOtherForm(f"a choice has the index {index!r}")
    return index


def _add_piece(choice: Fields, piece: Fields) -> None:
    for name, value in piece.items():
        match name, value:
            case "delta", dict():
                join_delta(choice.setdefault("message", {}), value)
            case "text", str():
                choice["text"] = choice.get("text", "") + value
            case "logprobs", dict():
                choice["logprobs"] = _joined_logprobs(choice.get("logprobs") or {}, value)
            case "token_ids", list():
                choice[name] = (choice.get(name) or []) + value
            case "index", _:
                choice[name] = _index(piece)
            case _:
                set_once(choice, name, value)


def _joined_logprobs(before: Fields, more: Fields) -> Fields:
    """Log probabilities of all tokens, in chat's lists or in those of text completions."""
    joined = dict(before)
    for name, value in more.items():
        if isinstance(value, list):
            joined[name] = (joined.get(name) or []) + value
        else:
            set_once(joined, name, value)
    return joined


def _finished(choice: Fields, *, chat: bool) -> Fields:
    if not chat:
        return choice
    message = choice.setdefault("message", {})
    if calls := message.get("tool_calls"):
        message["tool_calls"] = finished_calls(calls)
    # OpenAI's own answers have null here where there are only calls; its streams begin with an empty string.
    if not message.get("content"):
        message["content"] = None if calls else message.get("content")
    message.setdefault("role", "assistant")
    return choice


def expand(answer: Fields, *, chat: bool) -> Iterator[Fields]:
    """The chunks that carry all that a whole answer holds, but for its usage. ``[DONE]`` is not among them.

    Raises NoOtherForm.
    """
    common = _common(answer)
    known = {*common, "choices", "usage", "object"}
    extra = {name: value for name, value in answer.items() if name not in known}
    if chat:
        common["object"] = _CHUNK_OBJECT
    choices = answer["choices"]
    last = len(choices) - 1
    indexes = [number if choice.get("index") is None else choice["index"] for number, choice in enumerate(choices)]
    if not choices or len(set(indexes)) < len(indexes):
        raise NoOtherForm("it has no choices, or two with one index")
    for number, (index, choice) in enumerate(zip(indexes, choices, strict=True)):
        pieces = list(_chat_pieces(choice) if chat else _text_pieces(choice))
        for piece in pieces[:-1]:
            yield {**common, "choices": [{"index": index, **piece, "finish_reason": None}]}
        # What the engine said of the answer as a whole, such as llama.cpp's timings, comes with its end.
        yield {**common, **(extra if number == last else {}), "choices": [{"index": index, **pieces[-1]}]}


def _common(answer: Fields) -> Fields:
    common: Fields = {name: answer[name] for name in _IN_EVERY_CHUNK if name in answer}
    said = answer.get("object") or _TEXT_OBJECT
    return {**common, "object": _CHUNK_OBJECT if said == "chat.completion" else said}


def _chat_pieces(choice: Fields) -> Iterator[Fields]:
    """The role, then what was thought, said and called, each in a chunk: many clients look at one of them only."""
    message = {name: value for name, value in (choice.get("message") or {}).items() if value not in (None, [])}
    rest = {name: value for name, value in choice.items() if name not in {"index", "message"}}
    content = message.get("content")
    if not isinstance(content, str | None) or "audio" in message:
        raise NoOtherForm("it isn't text alone")
    yield {"delta": {"role": message.pop("role", "assistant"), "content": None if content is None else ""}}
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
