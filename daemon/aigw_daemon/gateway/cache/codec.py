"""How an entry lies in a store that others share: a short head, then msgpack, compressed where that pays. Pure.

The head can be read without the rest: when the answer came, and under which key it was stored. What comes back from a
store is believed only if that key is the one that was asked for (CVE-2023-28858 is how it can be another's).
"""

import struct
import sys
from typing import Final

import msgspec

from aigw_daemon.gateway.cache.entry import Entry
from aigw_daemon.gateway.cache.key import KEY_BYTES

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_HEAD: Final = struct.Struct(f">d{KEY_BYTES}s?")
"""Seconds since the epoch, the key, whether the rest is compressed."""
CREATED_BYTES: Final = 8
WORTH_COMPRESSING: Final = 512
"""Shorter ones don't get small enough to matter."""
_PAYS: Final = 0.9
_LEVEL: Final = 3
_SPARE: Final = 16 * 1024
"""What an entry needs beside its body, at most."""

_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Entry)


def encode(entry: Entry) -> bytes:
    """The entry as bytes. Blocks for as long as the entry is large: a MiB takes milliseconds."""
    packed = _encode(entry)
    pressed = zstd.compress(packed, _LEVEL) if len(packed) >= WORTH_COMPRESSING else packed
    pays = len(pressed) < len(packed) * _PAYS
    return _HEAD.pack(entry.origin.created, entry.origin.key, pays) + (pressed if pays else packed)


def decode(blob: bytes, key: bytes, limit: int) -> Entry | None:
    """The entry that is kept under ``key``, or None if these bytes are not one. ``limit``: of its body, in bytes."""
    if len(blob) < _HEAD.size or blob[CREATED_BYTES : CREATED_BYTES + KEY_BYTES] != key:
        return None
    try:
        entry = _decoder.decode(_unpacked(blob, limit + _SPARE))
    except (ValueError, RecursionError, zstd.ZstdError):  # ValueError: msgspec's own, and for what is no UTF-8
        return None
    return entry if entry.origin.key == key and len(entry.body) <= limit and _is_one_line(entry.content_type) else None


def created(head: bytes) -> float | None:
    """When the answer came whose first `CREATED_BYTES` these are."""
    return float(struct.unpack(">d", head)[0]) if len(head) == CREATED_BYTES else None


def _is_one_line(content_type: str) -> bool:
    """It becomes a header line."""
    return content_type.isascii() and content_type.isprintable()


def _unpacked(blob: bytes, limit: int) -> bytes:
    rest = blob[_HEAD.size :]
    # With a limit of our own: a few bytes from a foreign hand could unfold into gigabytes.
    return zstd.ZstdDecompressor().decompress(rest, max_length=limit) if blob[_HEAD.size - 1] else rest
