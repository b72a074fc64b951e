"""How an entry lies in a store that others share: a short head, then msgpack, compressed where that pays. Pure.

The head can be read without the rest: when the answer came, of which model it is, and under which key it was stored.
What comes back from a store is believed only if that key is the one that was asked for (CVE-2023-28858 is how it can be
another's).
"""

import hashlib
import struct
import sys
from typing import Final, NamedTuple

import msgspec

from aigw_daemon.gateway.cache.entry import Entry
from aigw_daemon.gateway.cache.key import KEY_BYTES

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_TAG_BYTES: Final = 16
_HEAD: Final = struct.Struct(f">d{KEY_BYTES}s{_TAG_BYTES}s?")
"""Seconds since the epoch, the key, the model's tag, whether the rest is compressed."""
HEAD_BYTES: Final = _HEAD.size
WORTH_COMPRESSING: Final = 512
"""Shorter ones don't get small enough to matter."""
_PAYS: Final = 0.9
_LEVEL: Final = 3
_SPARE: Final = 16 * 1024
"""What an entry needs beside its body, at most."""

_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Entry)


class Head(NamedTuple):
    """What can be known of a stored answer without reading it."""

    created: float
    """Seconds since the epoch."""
    key: bytes
    model_tag: bytes
    """See `tag_of`."""
    pressed: bool


def tag_of(model: str) -> bytes:
    """Of a model as its backend names it: as long for every name. It tells answers apart when they are cleared."""
    return hashlib.sha256(model.encode()).digest()[:_TAG_BYTES]


def encode(entry: Entry) -> bytes:
    """The entry as bytes. Blocks for as long as the entry is large: a MiB takes milliseconds."""
    packed = _encode(entry)
    pressed = zstd.compress(packed, _LEVEL) if len(packed) >= WORTH_COMPRESSING else packed
    pays = len(pressed) < len(packed) * _PAYS
    origin = entry.origin
    return _HEAD.pack(origin.created, origin.key, tag_of(origin.model), pays) + (pressed if pays else packed)


def decode(blob: bytes, key: bytes, limit: int) -> Entry | None:
    """The entry that is kept under ``key``, or None if these bytes are not one. ``limit``: of its body, in bytes."""
    found = head(blob)
    if found is None or found.key != key:
        return None
    try:
        entry = _decoder.decode(_unpacked(blob[HEAD_BYTES:], limit + _SPARE, pressed=found.pressed))
    except (ValueError, RecursionError, zstd.ZstdError):  # ValueError: msgspec's own, and for what is no UTF-8
        return None
    return entry if entry.origin.key == key and len(entry.body) <= limit and _is_one_line(entry.content_type) else None


def head(blob: bytes) -> Head | None:
    """What the first `HEAD_BYTES` say; None of fewer."""
    return Head(*_HEAD.unpack_from(blob)) if len(blob) >= HEAD_BYTES else None


def _is_one_line(content_type: str) -> bool:
    """It becomes a header line."""
    return content_type.isascii() and content_type.isprintable()


def _unpacked(rest: bytes, limit: int, *, pressed: bool) -> bytes:
    # With a limit of our own: a few bytes from a foreign hand could unfold into gigabytes.
    return zstd.ZstdDecompressor().decompress(rest, max_length=limit) if pressed else rest
