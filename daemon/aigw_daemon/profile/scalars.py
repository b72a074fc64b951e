"""The values that a profile writes in its own way: durations, sizes, words, references to the environment, secrets."""

import os
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    WithJsonSchema,
    WrapSerializer,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from aigw_daemon.profile.redis_url import redis_trouble
from aigw_daemon.profile.urls import NO_SCHEME, address_troubles, leaks

K = TypeVar("K")
V = TypeVar("V")

_DURATION_PATTERN = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+$"
_DURATION = re.compile(_DURATION_PATTERN)
_DURATION_PART = re.compile(r"([0-9.]+)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST = 3650 * 86400

_SIZE_PATTERN = r"^[0-9]+(\.[0-9]+)? ?(B|[kKMGT]B?|[KMGT]iB?)$"
_SIZE = re.compile(r"([0-9.]+) ?([kKMGT]?)(i?)B?")
_LARGEST = 2**60
# Enough for any duration or size, and too little to keep a regular expression busy.
_LONGEST_TEXT = 40

_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)\}?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_IN_A_HEADER = re.compile(r"([!-~]([ -~]*[!-~])?)?")
_NO_HEADER = "must be one line of printable ASCII without blanks at its ends: it is sent in a header"


class MissingVariableError(Exception):
    """A ``${VARIABLE}`` that is not in the environment; the text names it and says what to do."""

    def __init__(self, variable: str) -> None:
        # A daemon that runs keeps the environment that it was started with.
        how = "export it, then 'aigw down' and 'aigw up'"
        super().__init__(f"the environment variable {variable} is not set where the daemon was started: {how}")
        self.variable = variable


def rule(text: str, *, hint: str = "", secret: bool = False) -> PydanticCustomError:
    """The error of a validator of ours: ``text`` is the rule that was broken, as the operator reads it."""
    return PydanticCustomError("aigw", "{rule}", {"rule": text, "hint": hint, "secret": secret})


def parse_duration(value: object) -> float:
    """Seconds from ``10m``, ``1h30m``, ``250ms`` or a plain number of seconds."""
    seconds = -1.0
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str) and len(value) <= _LONGEST_TEXT and _DURATION.match(value):
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(value))
    if not 0 <= seconds <= _LONGEST:
        raise rule("must be a duration such as 30s, 10m, 1h30m or a number of seconds")
    return seconds


def parse_limit(value: object) -> float | None:
    """Seconds as `parse_duration` reads them, but not 0, or None for ``off``."""
    if value is None or value == "off":
        return None
    try:
        seconds = parse_duration(value)
    except PydanticCustomError:
        seconds = 0.0
    if not seconds:
        raise rule("must be off, or a duration above 0 such as 30s, 10m, 1h30m or a number of seconds")
    return seconds


def parse_size(value: object) -> int:
    """Bytes from ``64MiB``, ``96.6M`` (powers of 1000 without the i) or a plain number of bytes."""
    size = -1
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str) and len(value) <= _LONGEST_TEXT and re.match(_SIZE_PATTERN, value):
        number, prefix, binary = _SIZE.findall(value)[0]
        size = round(float(number) * (1024 if binary else 1000) ** "BKMGT".index(prefix.upper() or "B"))
    if not 0 < size <= _LARGEST:
        raise rule("must be a size such as 64MiB, 100MB or a number of bytes")
    return size


def parse_memory(value: object) -> float | int:
    """A fraction of a GPU's memory (a number up to 1, as a float), or bytes (as an int) from ``20GiB``."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1:
        return float(value)
    if isinstance(value, str):
        return parse_size(value)
    raise rule("must be a fraction of each GPU's memory such as 0.45, or a size such as 20GiB")


def expand(text: str, env: Mapping[str, str] = os.environ) -> str:
    """Replace each ``${VARIABLE}`` by its value; ``$${`` stands for a literal ``${``.

    Raises MissingVariableError for one that isn't set.
    """

    def value(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        if match[1] not in env:
            raise MissingVariableError(match[1])
        return env[match[1]]

    return _REFERENCE.sub(value, text)


def check_references(text: str, *, secret: bool) -> str:
    """Refuse a ``${`` that names no variable, while the file is still at hand to point into."""
    for match in _REFERENCE.finditer(text):
        if match[0] != "$${" and not (match[0].endswith("}") and _VARIABLE.fullmatch(match[1])):
            raise rule("a reference is written ${VARIABLE}", hint="write $${ for a literal ${", secret=secret)
    return text


class Secret:
    """Text that never prints itself (rule S12), with its ``${VARIABLE}`` references still in it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def expand(self, env: Mapping[str, str] = os.environ) -> str:
        """The secret itself, for the one place that needs it. Raises MissingVariableError."""
        return expand(self._text, env)

    @property
    def variables(self) -> frozenset[str]:
        """The names of the variables that it refers to."""
        return frozenset(match[1] for match in _REFERENCE.finditer(self._text) if match[1] is not None)

    def matches(self, pattern: re.Pattern[str]) -> bool:
        """Whether the whole text is of this form, without its telling more."""
        return pattern.fullmatch(self._text) is not None

    def starts_with(self, *prefixes: str) -> bool:
        """Whether it starts so, without its telling more."""
        return self._text.startswith(prefixes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "Secret(…)"

    @classmethod
    def _from_value(cls, value: object) -> "Secret":
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            raise rule("must be a string", hint="quote it", secret=True)
        return cls(check_references(value, secret=True))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        # To pydantic, too, a secret is nothing but its repr.
        return core_schema.no_info_plain_validator_function(
            cls._from_value, serialization=core_schema.plain_serializer_function_ser_schema(repr)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": ["string", "integer"]}


def check_key(secret: Secret) -> Secret:
    """A key that a header can hold, as far as it is written in the profile itself."""
    if not secret.matches(_IN_A_HEADER):
        raise rule(_NO_HEADER, secret=True)
    return secret


def header_key(secret: Secret, where: str, env: Mapping[str, str]) -> str:
    """The key itself. Raises MissingVariableError, and ValueError that names ``where`` for what no header can hold."""
    key = secret.expand(env)
    if not _IN_A_HEADER.fullmatch(key):
        names = ", ".join(sorted(secret.variables))
        raise ValueError(f"{where} {_NO_HEADER}; see what the environment has as {names}")
    return key


def _word(value: object) -> object:
    # An unquoted 4096 among arguments can mean nothing but its digits; 1.0 or true could lose how they were written.
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def check_url(text: str) -> str:
    """An http or https address without user, query or fragment; one with references is checked once they are known.

    What may hold a key or a password is refused without being shown.
    """
    bare = _REFERENCE.sub("x", check_references(text, secret=False))
    open_ended = "${" in text
    leaking, troubles = tuple(leaks(bare)), () if open_ended else tuple(address_troubles(text))
    told = list(leaking)
    if troubles:
        # The rule itself says what a scheme must be.
        named = f" ({'; '.join(troubles)})" if troubles != (NO_SCHEME,) else ""
        told.append(f"must be an http or https URL such as http://127.0.0.1:11500{named}")
    if told:
        raise rule("; ".join(told), hint="put a key into api_key" if leaking else "", secret=bool(leaking))
    return text if open_ended else text.rstrip("/")


def check_redis(secret: Secret) -> Secret:
    """A Redis URL, which may hold a password, or the word ``managed``."""
    if secret == Secret("managed"):
        return secret
    if not secret.starts_with("redis://", "rediss://", "unix://"):
        raise rule("must be a redis://, rediss:// or unix:// URL, or managed", secret=True)
    if not secret.variables and (trouble := redis_trouble(secret.expand({}))) is not None:
        raise rule(trouble, secret=True)
    return secret


def one_of_pattern(pattern: str, text: str) -> Callable[[str], str]:
    """A validator: the whole string matches the pattern, else the rule ``text`` is broken."""
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise rule(text)
        return value

    return check


def _locked(value: Mapping[K, V]) -> Mapping[K, V]:
    return MappingProxyType(dict(value))


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": _DURATION_PATTERN}, {"type": "number", "minimum": 0}]}),
]
"""Seconds."""

Limit = Annotated[
    float | None,
    BeforeValidator(parse_limit),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": f"{_DURATION_PATTERN}|^off$"},
                {"type": "number", "exclusiveMinimum": 0},
            ]
        }
    ),
]
"""Seconds; None for ``off``."""

Size = Annotated[
    int,
    BeforeValidator(parse_size),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": _SIZE_PATTERN}, {"type": "integer", "minimum": 1}]}),
]
"""Bytes."""

Memory = Annotated[
    float | int,
    BeforeValidator(parse_memory),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
                {"type": "string", "pattern": _SIZE_PATTERN},
            ]
        }
    ),
]
"""A fraction (float) or bytes (int)."""

Word = Annotated[str, BeforeValidator(_word), WithJsonSchema({"type": ["string", "integer"]})]
"""A string of a command line: a whole number may stand unquoted."""

Url = Annotated[str, AfterValidator(check_url)]

Key = Annotated[Secret, AfterValidator(check_key)]
"""A secret that is sent in a header."""

Locked = Annotated[Mapping[K, V], AfterValidator(_locked), WrapSerializer(lambda value, inner: inner(dict(value)))]
"""A mapping that can't be changed."""
