"""What makes two requests the same request: the key of a cached answer (rule B19). Pure, apart from a memo.

Every field of the forwarded body counts, in whatever order and spacing it was written. What doesn't count is listed
here: how the answer is delivered, whom it is for, and aigw's own fields.

Numbers are compared as JSON writes them, by value and by kind: ``1.0`` is ``1.00`` and ``1e0``, but not ``1``, since an
engine that puts a tool's schema into the prompt writes the two differently. Integers are exact, however long.
"""

import hmac
import json
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from aigw_daemon.gateway import parameters
from aigw_daemon.gateway.wire import BAD_JSON
from aigw_daemon.link.messages import ParamsView

SCHEMA: Final = 2
"""Of keys and stored entries: a newer aigw doesn't find what it would read differently."""
KEY_BYTES: Final = 32
COMMON_SCOPE: Final = bytes(KEY_BYTES)
"""Of everybody, where no API key is needed. No HMAC comes out like this."""
OWN_FIELD: Final = "cache"
"""LiteLLM's field for the cache: ours to obey, and not forwarded."""
UNDECIDING: Final = frozenset({"stream", "stream_options", "user", "metadata", "litellm_metadata"})
"""Fields that don't change an answer; the profile may count some of them all the same (``split_by``)."""
MEMO_BYTES: Final = 4 * 1024 * 1024
MEMO_OVERHEAD: Final = 512
"""What a key in the memo takes beside the body, about."""
MEMO_LONGEST_BODY: Final = 16 * 1024

_STORE_DIGITS: Final = 16
_USAGE: Final = "include_usage"
_decode = msgspec.json.Decoder().decode
_decode_raw = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="sorted").encode
_pack = msgspec.msgpack.Encoder().encode


class KeySpace:
    """Everything but the tenant and the body that a key depends on: made once for a candidate of a route.

    ``digest`` is the last known one of the model, and ``revision`` that of what its backend runs (see `BackendView`),
    so that a model pulled anew, or run in another way, doesn't serve old answers.
    """

    __slots__ = ("backend", "endpoint", "ignored", "model", "packed", "params", "tag")

    def __init__(
        self,
        endpoint: str,
        backend: str,
        model: str,
        digest: str | None = None,
        *,
        revision: str = "",
        split_by: Iterable[str] = (),
        params: ParamsView | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.backend = backend
        self.model = model
        self.params = params
        self.ignored = UNDECIDING.difference(split_by)
        self.packed = _pack((SCHEMA, endpoint, backend, model, digest, revision))
        """Begins every message that is hashed. It tells its own length, so nothing after it can pass for a part."""
        self.tag = _pack((self.packed, sorted(self.ignored), params))
        """The same for equal spaces, also where they belong to different routes."""


def canonical(body: bytes, space: KeySpace) -> bytes | None:
    """The forwarded body in its one spelling, or None where it has none: then it is not cached.

    None for what isn't a UTF-8 JSON object, and for what engines may read in more than one way: a name that an object
    has twice (the last one counts in Python, Go merges them) and ``-0``.
    """
    try:
        if space.params is not None:
            body = _encode(parameters.apply(_decode_raw(body), space.params))
        fields: Any = _decode(body)
        if not _is_plain(fields, body):
            _refuse_ambiguity(body.decode())
        if not isinstance(fields, dict):
            return None
        _leave_out(fields, space.ignored)
        return _encode_sorted(fields)
    except BAD_JSON:
        return None


def _is_plain(fields: Any, body: bytes) -> bool:
    """Whether what was read, written back in its own order, is the body itself: then nothing in it is unusual."""
    written = _encode(fields)
    return written == body or bool(written == msgspec.json.format(body, indent=-1))


def _leave_out(fields: dict[str, Any], ignored: frozenset[str]) -> None:
    """Drop what doesn't count. The model is in the key space, by the name that the engine gets."""
    options = fields.get("stream_options") if fields.get("stream") is True else None
    for name in ignored:
        fields.pop(name, None)
    fields.pop("model", None)
    fields.pop(OWN_FIELD, None)
    # Options beyond OpenAI's one (vLLM's continuous_usage_stats) change every event, so they do count.
    if isinstance(options, dict) and (more := {name: options[name] for name in options if name != _USAGE}):
        fields["stream_options"] = more


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has one name twice")
    return found


def _known_sign(digits: str) -> int:
    if digits == "-0":
        raise ValueError("-0 is 0 for some engines only")
    return int(digits)


_refuse_ambiguity = json.JSONDecoder(object_pairs_hook=_unique_names, parse_int=_known_sign).decode


class Keys:
    """Makes keys. ``secret`` is the installation's: without it nobody can tell from a key what was asked."""

    def __init__(self, secret: bytes, memo_bytes: int = MEMO_BYTES) -> None:
        self._mac = hmac.new(secret, digestmod="sha256")
        self._memo: OrderedDict[tuple[bytes, bytes, bytes], bytes] = OrderedDict()
        self._room = memo_bytes
        self.store = f"aigw:cache:{SCHEMA}:{self._hash(b'store').hex()[:_STORE_DIGITS]}:".encode()
        """What the names of this installation's answers begin with in a store that others may use as well; what follows
        is the key in hexadecimal digits."""

    def scope(self, api_key: bytes) -> bytes:
        """The tenant scope of whoever presents this API key; see `COMMON_SCOPE` for where none is needed."""
        return self._hash(b"scope:" + api_key)

    def key(self, space: KeySpace, scope: bytes, body: bytes) -> bytes | None:
        """The key of a request, or None for one that can't be cached. `KEY_BYTES` long, never cut.

        ``body`` is the client's; what the route does to it is in the space. A body that was seen lately costs a look
        into a dict. Bodies above `requests.THREAD_BYTES` belong into a thread: they don't touch the memo.
        """
        if len(body) > MEMO_LONGEST_BODY:
            return self._make(space, scope, body)
        memo = self._memo
        asked = (space.tag, scope, body)
        key = memo.get(asked)
        if key is not None:
            memo.move_to_end(asked)
        elif (key := self._make(space, scope, body)) is not None:
            memo[asked] = key
            self._room -= len(body) + MEMO_OVERHEAD
            while self._room < 0:
                self._room += len(memo.popitem(last=False)[0][2]) + MEMO_OVERHEAD
        return key

    def _make(self, space: KeySpace, scope: bytes, body: bytes) -> bytes | None:
        if len(scope) != KEY_BYTES:
            raise ValueError(f"a tenant scope has {KEY_BYTES} bytes, not {len(scope)}: use Keys.scope or COMMON_SCOPE")
        spelled = canonical(body, space)
        return None if spelled is None else self._hash(b"%b%b%b" % (space.packed, scope, spelled))

    def _hash(self, message: bytes) -> bytes:
        # A copy of the keyed state takes two thirds of the time of hmac.digest, which sets it up anew.
        mac = self._mac.copy()
        mac.update(message)
        return mac.digest()
