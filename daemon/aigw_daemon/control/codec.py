"""The objects of the control API as JSON.

The standard library's JSON: it takes whole numbers of any size and lone surrogates, which a profile may hold.
"""

import json
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


def plain(value: Any) -> Any:
    """Dicts, lists and scalars for a message, or for anything that holds messages."""
    return msgspec.to_builtins(value)


def encoded(value: Any) -> str:
    """One line of JSON."""
    return json.dumps(plain(value))


def decoded(text: str | bytes, kind: type[T]) -> T:
    """Read a message. Raises ValueError for what isn't JSON, or isn't a ``kind``."""
    return converted(json.loads(text), kind)


def converted(value: Any, kind: type[T]) -> T:
    """A message from dicts and lists. Raises ValueError where they don't fit."""
    return msgspec.convert(value, kind)
