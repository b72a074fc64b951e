"""Whether one request may be answered from the cache, and its answer kept: the route's policy, and what it asks. Pure.

A request can ask in three ways: ``Cache-Control`` (RFC 9111, so what isn't understood is ignored), ``x-aigw-cache:
bypass``, and LiteLLM's body field ``cache``. Where they differ, the strictest holds.
"""

import math
from typing import Any, Final, Literal

import msgspec

from aigw_daemon.gateway import parameters
from aigw_daemon.gateway.controls import BYPASS
from aigw_daemon.gateway.wire import BAD_JSON, ApiError
from aigw_daemon.link.messages import EMBEDDINGS, RERANK, ParamsView

Word = Literal["hit", "miss", "coalesced", "bypass", "off"]
"""The values of ``x-aigw-cache``."""
LONGEST_TTL: Final = 30 * 24 * 3600.0

_RANDOM_SEED: Final = 0xFFFFFFFF
"""How llama.cpp says that it picks one itself; negative seeds mean the same."""


class Terms(msgspec.Struct, frozen=True):
    """What the cache may do for one request. Times in seconds."""

    look_up: bool
    store: bool
    ttl: float
    max_age: float | None
    """The oldest answer that will do; None: any that is still kept."""
    word: Word
    """For ``x-aigw-cache`` where the engine answers: bypass where the request didn't want a kept answer."""


def usual_terms(ttl: float) -> Terms:
    """For a request that asks for nothing special: made once for a route, not for each request. ``ttl`` in seconds."""
    return Terms(look_up=True, store=ttl > 0, ttl=ttl, max_age=None, word="miss")


class CacheField(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """LiteLLM's body field. Times in seconds."""

    no_cache: bool | None = msgspec.field(name="no-cache", default=None)
    no_store: bool | None = msgspec.field(name="no-store", default=None)
    ttl: float | None = None
    """How long to keep the answer, in place of the route's."""
    s_maxage: float | None = msgspec.field(name="s-maxage", default=None)
    """The oldest answer that will do."""


_field: msgspec.json.Decoder[CacheField | None] = msgspec.json.Decoder(CacheField | None)


def parse_field(raw: bytes) -> CacheField | None:
    """The body field ``cache``, given as JSON; null is as if it weren't there. Raises ApiError 400."""
    try:
        field = _field.decode(raw)
    except BAD_JSON as error:
        raise _bad_field(str(error)) from error
    if field is not None:
        for name, value in (("ttl", field.ttl), ("s-maxage", field.s_maxage)):
            if value is not None and not 0 <= value <= LONGEST_TTL:
                raise _bad_field(f"{name} must be from 0 to {LONGEST_TTL:.0f}, not {value:g}")
    return field


def check_header(value: str) -> None:
    """The request's ``x-aigw-cache``. Raises ApiError 400: a word that we don't know is a mistake, not a wish."""
    if value.strip().lower() != BYPASS:
        message = f"the header x-aigw-cache can only be {BYPASS}, not {value!r}"
        raise ApiError(400, message, code="invalid_header", param="x-aigw-cache")


def terms(
    usual: Terms, *, cache_control: str | None = None, bypass: str | None = None, field: CacheField | None = None
) -> Terms:
    """The terms of a request on a route whose `usual` they are. ``bypass`` is its ``x-aigw-cache``.

    ``no-cache`` asks for a fresh answer, which is kept; ``no-store`` takes a kept answer, and keeps none.
    Raises ApiError 400 for an unknown ``x-aigw-cache``.
    """
    if bypass is not None:
        check_header(bypass)
    asked = directives(cache_control) if cache_control is not None else {}
    field = field or CacheField()
    ages = [age for age in (_seconds(asked.get("max-age")), field.s_maxage) if age is not None]
    max_age = min(ages, default=None)
    fresh = bypass is not None or "no-cache" in asked or field.no_cache is True or max_age == 0
    ttl = usual.ttl if field.ttl is None else field.ttl
    unkept = bypass is not None or "no-store" in asked or field.no_store is True or ttl == 0
    look_up = usual.look_up and not fresh
    return Terms(look_up, not unkept, ttl, max_age, "miss" if look_up else "bypass")


def directives(cache_control: str) -> dict[str, str]:
    """The directives of a Cache-Control header, names lower-cased. Of one that comes twice the first counts.

    So says RFC 9111, 4.2.1. No directive that we obey has a comma in its value, so quoted commas need no care.
    """
    found: dict[str, str] = {}
    for part in cache_control.split(","):
        name, _, value = part.partition("=")
        found.setdefault(name.strip().lower(), value.strip().strip('"'))
    return found


def _seconds(value: str | None) -> float | None:
    """A delta-seconds, or None for what isn't one (RFC 9111, 1.2.2)."""
    return float(value) if value is not None and value.isascii() and value.isdigit() else None


class _Chance(msgspec.Struct):
    temperature: Any = None
    seed: Any = None


_decode_raw = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_chance = msgspec.json.Decoder(_Chance).decode
_encode = msgspec.json.Encoder().encode


def is_deterministic(endpoint: str, body: bytes, params: ParamsView | None = None) -> bool:
    """Whether asking again would give the same: temperature 0, a seed, or an endpoint without chance.

    Of the body as it is forwarded: ``params`` is what the route does to it.
    """
    if endpoint in {EMBEDDINGS, RERANK}:
        return True
    try:
        if params is not None:
            body = _encode(parameters.apply(_decode_raw(body), params))
        chance = _decode_chance(body)
    except BAD_JSON:
        return False
    cold = _is_number(chance.temperature) and chance.temperature == 0
    return cold or (_is_number(chance.seed) and 0 <= chance.seed < _RANDOM_SEED)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def says_something(*said: Any) -> bool:
    """True if any part of an answer (text, tool calls, refusal) is non-empty.

    Sampling sometimes yields an empty answer, which must not be served from the cache for an hour.
    """
    return not all(map(_is_blank, said))


def _is_blank(said: Any) -> bool:
    match said:
        case str():
            return not said.strip()
        case list():
            return all(map(_is_blank, said))
        case {"type": "text"}:
            return _is_blank(said.get("text"))
        case _:
            return not said


def _bad_field(detail: str) -> ApiError:
    choices = "no-cache and no-store (true or false), ttl and s-maxage (seconds)"
    return ApiError(400, f"the request is invalid: cache: {detail}; its fields are {choices}", param="cache")
