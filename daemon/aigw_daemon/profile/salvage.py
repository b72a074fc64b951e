"""What is left of a broken profile once its mistakes are taken out, so that none of them hides another. Pure."""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from aigw_daemon.profile.backends import SECTIONS, ProcessSection
from aigw_daemon.profile.doubts import Doubts
from aigw_daemon.profile.errors import nearest
from aigw_daemon.profile.model import Profile
from aigw_daemon.profile.translate import Path, known_keys, typed_path
from aigw_daemon.words import EngineKind

_KEY_AT: Final = 3
"""Of an error in a backend, the part of the location that is its key: behind the backend and its engine."""
_ROUNDS: Final = 6
"""What is taken out may leave a gap that is an error itself: so often is that looked at."""
_TYPOS: Final = 100
"""Unknown keys of which it is found out what they were meant for; that is slow, and a hostile file has thousands."""
_STAND_INS: Final[Mapping[str, object]] = {
    "version": 1,
    "url": "http://127.0.0.1:9/v1",
    "command": ("-",),
    "backend": "-",
    "source": "file:/-",
    "engine": EngineKind.OLLAMA.value,
}
"""For keys that must be there: with one of these the rest can be checked. Ollama is the engine that knows most keys."""


@dataclass
class Salvage:
    """What is left: no ``profile`` where nothing is."""

    profile: Profile | None = None
    doubts: Doubts = field(default_factory=Doubts)
    further: list[ErrorDetails] = field(default_factory=list)
    """What an unknown engine has hidden: errors that it would have whichever engine was meant."""


def salvage(data: Mapping[str, Any], errors: list[ErrorDetails], file: str) -> Salvage:
    """Take out what is broken until the rest holds; ``errors`` is what validation has found."""
    made, left = Salvage(), _thawed(data)
    doubts, unknown = made.doubts, {error["loc"][1] for error in errors if _of_engine(error)}
    for round_ in range(_ROUNDS):
        if round_ == 1:
            made.further = [error for error in errors if _whichever_engine(error, unknown)]
        found = [(_place(left, error), error["type"]) for error in errors]
        doubts.add(path for path, _ in found)
        doubts.add(_meant(left, [path for path, kind in found if kind == "extra_forbidden"]))
        for path, kind in found:
            _take_out(left, path, kind)
        try:
            made.profile = Profile.from_data(_frozen(left), "", file, lenient=True)
        except ValidationError as error:
            errors = error.errors(include_url=False)
        else:
            break
    return made


def _place(data: Any, error: ErrorDetails) -> Path:
    path, _ = typed_path(data, error["loc"])
    return (*path, "engine") if error["type"].startswith("union_tag_") else path


def _of_engine(error: ErrorDetails) -> bool:
    return error["type"].startswith("union_tag_") and len(error["loc"]) > 1


def _whichever_engine(error: ErrorDetails, unknown: AbstractSet[str | int]) -> bool:
    """Whether an error in a backend of an ``unknown`` engine is none of the engine that stands in for it."""
    location = error["loc"]
    if location[0] != "backends" or location[1] not in unknown or len(location) <= _KEY_AT:
        return False
    key = location[_KEY_AT]
    if error["type"] == "extra_forbidden":
        return not any(key in section.model_fields for section in SECTIONS.values())
    return key in ProcessSection.model_fields


def _meant(data: Any, unknown: list[Path]) -> Iterable[Path]:
    """The keys that unknown ones were probably meant for: whatever is missing there is not missing."""
    for path in unknown[:_TYPOS]:
        siblings = _containers(data, path)[-1]
        missing = [key for key in known_keys(data, path[:-1]) if key not in siblings]
        if (near := nearest(str(path[-1]), missing)) is not None:
            yield (*path[:-1], near)


def _take_out(data: Any, path: Path, kind: str) -> None:
    """Remove what is wrong at the path, with as little as possible of what is right."""
    containers = _containers(data, path)
    if kind == "missing" or kind.startswith("union_tag_"):
        # With nothing to stand in for it, what lacks it goes.
        stand_in = _STAND_INS.get(str(path[-1]))
        if stand_in is not None and len(containers) == len(path) and isinstance(containers[-1], dict):
            containers[-1][path[-1]] = stand_in
            return
        path = path[:-1]
    depth = min(len(path), len(containers)) - 1
    # An element of a list goes with its whole list: the others would get places that nobody typed.
    while depth >= 0 and not isinstance(containers[depth], dict):
        depth -= 1
    if depth >= 0:
        containers[depth].pop(path[depth], None)


def _containers(data: Any, path: Path) -> list[Any]:
    """The value that each part of the path is looked up in, as far as there are any."""
    found = []
    for part in path:
        if not isinstance(data, dict | list):
            break
        found.append(data)
        if isinstance(data, dict):
            data = data.get(part)
        else:
            data = data[part] if isinstance(part, int) and part < len(data) else None
    return found


def _thawed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _thawed(part) for key, part in value.items()}
    return [_thawed(part) for part in value] if isinstance(value, tuple) else value


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _frozen(part) for key, part in value.items()}
    return tuple(_frozen(part) for part in value) if isinstance(value, list) else value
