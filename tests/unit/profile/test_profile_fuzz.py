"""Whatever stands anywhere in a profile: it is a profile, or a ProfileError whose problems point into the file."""

import copy
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_daemon.profile.chains import chain, fallbacks
from aigw_daemon.profile.errors import ProfileError
from aigw_daemon.profile.load import parse
from aigw_daemon.profile.model import Profile

REPOSITORY = Path(__file__).parents[3]
PROFILES = [yaml.safe_load(path.read_text()) for path in sorted((REPOSITORY / "profiles").glob("*.yaml"))]

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from(["ollama", "llamacpp", "chat", "code", "gpt-*", "a/b", "/", "${X}", "${", "-x", "auto", "off"]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)


def _places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path, *(place for key, value in items for place in _places(value, (*path, key)))]


@st.composite
def profiles(draw: st.DrawFn) -> Any:
    data = copy.deepcopy(draw(st.sampled_from(PROFILES)))
    for _ in range(draw(st.integers(1, 4))):
        *way, last = draw(st.sampled_from([place for place in _places(data) if place]))
        holder = data
        for key in way:
            holder = holder[key]
        if isinstance(holder, dict) and draw(st.booleans()):
            last = draw(st.text(max_size=8) | st.sampled_from(["alias", "targets", "engine", "attach", "model"]))
        holder[last] = draw(VALUES)
    return data


def _parsed(content: str | bytes) -> Profile | ProfileError:
    try:
        return parse(content, "p")
    except ProfileError as error:
        return error


@settings(max_examples=300, deadline=None)
@given(profiles())
def test_any_value_anywhere_is_accepted_or_told_with_its_place(data: Any) -> None:
    text = yaml.safe_dump(data, allow_unicode=True)
    found = _parsed(text)
    if isinstance(found, ProfileError):
        assert found.problems
        for problem in found.problems:
            assert 1 <= problem.line <= text.count("\n") + 1
            assert str(problem).isprintable()
        return
    for route in found.routes:
        for target in (*chain(found, route), *fallbacks(found, route)):
            assert target.backend in found.backends


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_accepted_or_told(content: bytes) -> None:
    found = _parsed(content)
    assert isinstance(found, Profile) or all(str(problem).isprintable() for problem in found.problems)
