"""From a file to a profile, or to everything that is wrong with it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from aigw_daemon.profile.check import Declared, check
from aigw_daemon.profile.errors import MAX_PROBLEMS, ProfileError, ProfileProblem, shown
from aigw_daemon.profile.model import Profile
from aigw_daemon.profile.salvage import Salvage, salvage
from aigw_daemon.profile.translate import from_finding, from_validation, typed_path
from aigw_daemon.profile.yaml import MAX_BYTES, Document, Mark, read


def load(path: Path) -> Profile:
    """Read and check a profile's file.

    Raises ProfileError with all that is wrong with it, a file that can't be read included.
    """
    return parse(content(path), str(path))


def content(path: Path) -> bytes:
    """The bytes of a profile's file, for `parse`. Raises ProfileError for one that can't be read."""
    try:
        if path.exists() and not path.is_file():
            raise ProfileError([_unreadable(path, "is not a regular file")])
        with path.open("rb") as file:
            # One byte more than is allowed tells that there are more, however many.
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ProfileError([_unreadable(path, f"cannot be read: {error.strerror}")]) from error


def parse(text: str | bytes, file: str) -> Profile:
    """Check a profile's text; ``file`` is what its errors call it, and gives the profile its name.

    Raises ProfileError with all that is wrong with it.
    """
    document = read(text.encode() if isinstance(text, str) else text, file)
    if not isinstance(document.data, dict):
        rule = "a profile is a mapping of keys such as version, backends and routes"
        document.report(document.place(()), (), rule, shown(document.data))
        raise ProfileError(document.problems)
    profile, errors = _validate(document)
    problems = list(document.problems)
    left = Salvage(profile) if profile is not None else salvage(document.data, errors, document.file)
    errors += left.further
    problems.extend(from_validation(document, error) for error in _first(document, errors))
    if left.profile is not None:
        findings = check(left.profile, _declared(document.data), left.doubts)
        problems.extend(from_finding(document, finding) for finding in findings[:MAX_PROBLEMS])
    if problems or profile is None:
        raise ProfileError(problems)
    return profile


def _validate(document: Document) -> tuple[Profile | None, list[ErrorDetails]]:
    try:
        return Profile.from_data(document.data, Path(document.file).stem, document.file), []
    except ValidationError as error:
        return None, [each for each in error.errors(include_url=False) if not _follows(each)]


def _follows(error: ErrorDetails) -> bool:
    """Whether an error only follows from others: a list all of whose elements are wrong is called too short as well."""
    return error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"]


def _first(document: Document, errors: list[ErrorDetails]) -> list[ErrorDetails]:
    """As many as are shown: looking for the nearest name costs time, and a hostile file has thousands."""

    def position(error: ErrorDetails) -> tuple[int, int]:
        mark: Mark = document.place(typed_path(document.data, error["loc"])[0])
        return mark.line, mark.column

    return sorted(errors, key=position)[: MAX_PROBLEMS + 1]


def _declared(data: dict[str, Any]) -> Declared:
    backends, routes = (_mapping(data.get(section)) for section in ("backends", "routes"))
    served = {name for backend in backends.values() for name in _served(_mapping(backend))}
    return Declared(frozenset(backends), frozenset(routes), frozenset(served))


def _served(backend: Mapping[str, Any]) -> list[str]:
    models = backend.get("models")
    names = [backend.get("served_name") or backend.get("model"), *(models if isinstance(models, tuple) else ())]
    return [name for name in names if isinstance(name, str)]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _unreadable(path: Path, rule: str) -> ProfileProblem:
    return ProfileProblem(str(path), 0, 0, "", rule, hint="check the path and its permissions")
