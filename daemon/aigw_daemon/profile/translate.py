"""From pydantic's errors and the cross checks' findings to problems with a place in the file."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import ErrorDetails

from aigw_daemon.profile.backends import SECTIONS, Section
from aigw_daemon.profile.caching import Cache
from aigw_daemon.profile.check import Finding
from aigw_daemon.profile.errors import ProfileProblem, did_you_mean, dotted, nearest, shown
from aigw_daemon.profile.model import TARGET_FORMS, Gateway, ModelEntry, Profile, Restart, Route, Target
from aigw_daemon.profile.yaml import Document
from aigw_daemon.words import EngineKind

Path = tuple[str | int, ...]

_ENGINES = tuple(map(str, SECTIONS))
_ENGINE_AT = 2
"""Of an error in a backend, the part of the location that is its engine."""
_RULES = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "tuple_type": "must be a list",
    "mapping_type": "must be a mapping",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "greater_than_equal": "must be {ge} or more",
    "less_than_equal": "must be {le} or less",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match {pattern}",
    "too_short": "must not be empty",
    "missing": "is required",
}
_TOP: dict[Path, type[Section]] = {(): Profile, ("gateway",): Gateway, ("cache",): Cache, ("restart",): Restart}
_ENTRIES: dict[str, type[Section]] = {"routes": Route, "models": ModelEntry}
_SECRET_KEYS = frozenset({"api_key", "env", "redis"})


def from_validation(document: Document, error: ErrorDetails) -> ProfileProblem:
    """One of pydantic's errors, at the place of the value that it is about."""
    path, at_key = typed_path(document.data, error["loc"])
    match error["type"]:
        case "extra_forbidden":
            return _unknown_key(document, path)
        case "union_tag_invalid" | "union_tag_not_found":
            return _engine(document, path, error["input"])
        case "literal_error":
            return _not_a_choice(document, path, error)
    rule, hint, secret = _rule(error)
    hidden = (
        secret or error["type"] in {"missing", "too_short", "string_too_short"} or not _SECRET_KEYS.isdisjoint(path)
    )
    value = None if hidden else shown(path[-1] if at_key else error["input"])
    return _problem(document, path, rule, value=value, hint=hint, at_key=at_key or error["type"] == "missing")


def from_finding(document: Document, finding: Finding) -> ProfileProblem:
    """One finding of the cross checks."""
    hint = finding.hint
    if not hint and finding.value is not None and finding.choices:
        hint = did_you_mean(finding.value.strip('"'), finding.choices)
    return _problem(document, finding.path, finding.rule, value=finding.value, choices=finding.choices, hint=hint)


def typed_path(data: Any, location: Sequence[str | int]) -> tuple[Path, bool]:
    """The part of an error's location that the operator typed, and whether the error is about the key itself."""
    path: list[str | int] = []
    at_key = False
    for position, part in enumerate(location):
        if part == "[key]":
            at_key = True
        elif not _is_tag(location, position):
            path.append(part)
            data = data[part] if _holds(data, part) else None
    return tuple(path), at_key


def _is_tag(location: Sequence[str | int], position: int) -> bool:
    """Whether pydantic has put this part there, to say which of several forms it has taken a value for.

    Only its place tells: an operator may have typed the same word, such as ``command``.
    """
    if position == _ENGINE_AT and location[0] == "backends":
        return location[position] in _ENGINES
    return location[position] in TARGET_FORMS and isinstance(location[position - 1], int)


def _holds(data: Any, part: str | int) -> bool:
    if isinstance(data, tuple):
        return isinstance(part, int) and part < len(data)
    return isinstance(data, Mapping) and part in data


def _rule(error: ErrorDetails) -> tuple[str, str, bool]:
    context = error.get("ctx", {})
    if error["type"] == "aigw":
        return context["rule"], context["hint"], context["secret"]
    rule = _RULES.get(error["type"])
    hint = "quote it" if error["type"] == "string_type" and isinstance(error["input"], int | float) else ""
    return (rule.format(**context) if rule else error["msg"].lower()), hint, False


def _unknown_key(document: Document, path: Path) -> ProfileProblem:
    key = str(path[-1])
    choices = known_keys(document.data, path[:-1])
    near = nearest(key, choices)
    hint = f"did you mean {shown(near)}?" if near else ""
    if path[0] == "backends" and key not in choices and (engines := _engines_with(key)):
        hint = f"only {' and '.join(engines)} {'knows' if len(engines) == 1 else 'know'} it"
    return _problem(document, path, "unknown key", choices=choices, hint=hint, at_key=True)


def known_keys(data: Any, path: Path) -> tuple[str, ...]:
    """The keys that the mapping at a path may have; none where that isn't known."""
    section = _section(data, path)
    return tuple(section.model_fields) if section else ()


def _section(data: Any, path: Path) -> type[Section] | None:
    """The class of the mapping at a path."""
    match path:
        case ("backends", name):
            engine = data["backends"][name].get("engine")
            return SECTIONS.get(EngineKind(engine)) if engine in _ENGINES else None
        case ("routes", _, "targets" | "on_context_overflow", _):
            return Target
        case (("routes" | "models") as section, _):
            return _ENTRIES[section]
    return _TOP.get(path)


def _engines_with(key: str) -> list[str]:
    return [str(kind) for kind, section in SECTIONS.items() if key in section.model_fields]


def _engine(document: Document, path: Path, backend: Any) -> ProfileProblem:
    if "engine" not in backend:
        return _problem(document, (*path, "engine"), "is required", choices=_ENGINES)
    engine = backend["engine"]
    hint = did_you_mean(engine, _ENGINES) if isinstance(engine, str) else ""
    rule = "must be an engine that aigw runs"
    return _problem(document, (*path, "engine"), rule, value=shown(engine), choices=_ENGINES, hint=hint)


def _not_a_choice(document: Document, path: Path, error: ErrorDetails) -> ProfileProblem:
    # pydantic gives the choices as one sentence: 'wait', 'bridge' or 'reject'.
    choices = tuple(word.strip(" '") for word in error["ctx"]["expected"].replace(" or ", ",").split(","))
    value = error["input"]
    hint = did_you_mean(value, choices) if isinstance(value, str) else ""
    if len(choices) == 1:
        return _problem(document, path, f"must be {choices[0]}", value=shown(value), hint=hint)
    return _problem(document, path, "must be one of the choices", value=shown(value), choices=choices, hint=hint)


def _problem(
    document: Document,
    path: Path,
    rule: str,
    *,
    value: str | None = None,
    choices: tuple[str, ...] = (),
    hint: str = "",
    at_key: bool = False,
) -> ProfileProblem:
    mark = document.place(path) if at_key else document.values.get(path) or document.place(path)
    return ProfileProblem(document.file, mark.line, mark.column, dotted(path), rule, value, choices, hint)
