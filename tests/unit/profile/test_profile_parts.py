"""Scalars, sources, chains, the schema, shipped profiles and where profiles are found."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic_core import PydanticCustomError

from aigw_daemon.home import Home
from aigw_daemon.profile.chains import Step, chain, fallbacks
from aigw_daemon.profile.errors import ProfileError
from aigw_daemon.profile.find import find, listing, shipped
from aigw_daemon.profile.load import load, parse
from aigw_daemon.profile.scalars import MissingVariableError, Secret, expand, parse_duration, parse_size
from aigw_daemon.profile.schema import schema
from aigw_daemon.profile.sources import (
    FileSource,
    HttpSource,
    PypiSource,
    SourceError,
    model_path,
    parse_source,
)

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("10m", 600), ("1h", 3600), ("1h30m", 5400), ("250ms", 0.25), ("1.5h", 5400), (45, 45), (0.5, 0.5)],
)
def test_durations_are_seconds(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "10", "m", "-5s", "1 h", "5x", True, None, -1, float("nan"), float("inf"), "9" * 99]
)
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(PydanticCustomError):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("64MiB", 64 * 1024**2), ("96.6M", 96_600_000), ("1kB", 1000), ("2 GiB", 2 * 1024**3), ("5B", 5), (7, 7)],
)
def test_sizes_are_bytes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1B", "1XB", 0, -5, 1.5, True, "9" * 30 + "GB"])
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(PydanticCustomError):
        parse_size(text)


def test_references_are_expanded_when_they_are_needed() -> None:
    assert expand("a-${X}-$${X}-$X", {"X": "1"}) == "a-1-${X}-$X"
    with pytest.raises(MissingVariableError, match="NOT_SET is not set"):
        Secret("${NOT_SET}").expand({})


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("pypi:a-b==1.2#c/d.gguf", PypiSource("a-b==1.2", "c/d.gguf")),
        ("file:/m/x.gguf", FileSource(Path("/m/x.gguf"))),
        ("file:///m/x.gguf", FileSource(Path("/m/x.gguf"))),
        ("https://h/p/x.gguf?t=1", HttpSource("https://h/p/x.gguf?t=1")),
        ("http://127.0.0.1:5/x.gguf", HttpSource("http://127.0.0.1:5/x.gguf")),
    ],
)
def test_sources_are_read(text: str, source: object) -> None:
    assert parse_source(text) == source


@pytest.mark.parametrize(
    "text",
    ["", "x.gguf", "ftp://h/x", "http://h/x.gguf", "https://u:p@h/x", "https://h/", "https://h/-x", "https://h/%2e%2e",
     "pypi:a#m", "pypi:--index-url==1#m", "pypi:a>=1#m", "pypi:a==1", "pypi:a==1#../x", "pypi:a==1#/x", "file:x.gguf",
     "https://h/a b", "https://[::/x"],
)  # fmt: skip
def test_other_sources_are_refused(text: str) -> None:
    with pytest.raises(SourceError):
        parse_source(text)


@pytest.mark.parametrize("file", ["/etc/x", "../x", "a/../../x", "-x", "a/-x", ".x", "", "a\nb", "."])
def test_a_model_never_lands_outside_its_folder(file: str) -> None:
    with pytest.raises(SourceError):
        model_path("m", file, "file:/x")


ROUTES = """
version: 1
backends:
  local: {engine: llamacpp, model: m, served_name: small}
  many: {engine: ollama}
routes:
  big: {targets: [many, local]}
  other: {targets: [{backend: many, model: x}, big]}
  quick: {alias: other}
  alone: {targets: [many], fallback: off}
  lonely: {alias: alone}
  "gpt-*": {targets: [many, small]}
fallback: [big]
"""


@pytest.mark.parametrize(
    ("route", "targets"),
    [
        ("big", [("many", "big"), ("local", "small")]),
        ("other", [("many", "x"), ("many", "big"), ("local", "small")]),
        ("quick", [("many", "x"), ("many", "big"), ("local", "small")]),
        ("gpt-*", [("many", None), ("local", "small")]),
        ("small", [("local", "small")]),
        ("many/y", [("many", "y")]),
        ("nothing", []),
    ],
)
def test_a_chain_is_what_a_name_comes_down_to(route: str, targets: list[tuple[str, str | None]]) -> None:
    expected = tuple(Step(backend=backend, model=model) for backend, model in targets)
    assert chain(parse(ROUTES, "p"), route) == expected


def test_the_fallback_comes_after_the_own_targets_unless_it_is_off() -> None:
    profile = parse(ROUTES, "p")
    assert fallbacks(profile, "big") == ()
    assert fallbacks(profile, "gpt-*") == (Step(backend="many", model="big"),)
    assert fallbacks(profile, "alone") == ()
    assert fallbacks(profile, "lonely") == ()


def test_the_published_schema_is_current() -> None:
    command = "python -m aigw_daemon.profile.schema > docs/profile.schema.json"
    assert (REPOSITORY / "docs/profile.schema.json").read_text() == schema(), f"run: {command}"


def test_the_schema_describes_every_key() -> None:
    described = json.loads(schema())
    for section in [described, *described["$defs"].values()]:
        for key, field in section["properties"].items():
            # A key whose section is described by its own class needs no second sentence.
            referred = described["$defs"][field["$ref"].rpartition("/")[2]] if "$ref" in field else field
            assert key == "engine" or field.get("description") or referred.get("description"), key


@pytest.mark.parametrize("path", sorted((REPOSITORY / "profiles").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_profile_loads_and_fits_the_schema(path: Path) -> None:
    assert load(path).description
    Draft202012Validator(json.loads(schema())).validate(yaml.safe_load(path.read_text()))


def test_the_schema_refuses_an_unknown_key() -> None:
    validator = Draft202012Validator(json.loads(schema()))
    assert not validator.is_valid({"version": 1, "backends": {"a": {"engine": "ollama", "parallel": 4}}})
    assert not validator.is_valid({"version": 1, "gateway": {"body_timeout": "soon"}})


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home.from_environment({"AIGW_HOME": str(tmp_path / "home")})
    home.profiles.mkdir(parents=True)
    return home


def test_a_name_finds_the_users_profile_before_the_shipped_one(home: Home) -> None:
    assert find("starter", home) == shipped() / "starter.yaml"
    mine = home.profiles / "starter.yml"
    mine.write_text("version: 1")
    assert find("starter", home) == mine


def test_a_path_finds_its_file(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("version: 1")
    monkeypatch.chdir(tmp_path)
    assert find(str(path), home) == find("x.yaml", home) == find("./x.yaml", home) == path


@pytest.mark.parametrize("name", ["startr", "./startr.yaml"])
def test_an_unknown_profile_is_told_with_those_that_there_are(home: Home, name: str) -> None:
    with pytest.raises(ProfileError) as caught:
        find(name, home)
    assert "(choices: gpu, starter, workstation)" in str(caught.value)


def test_the_listing_shows_descriptions_and_problems(home: Home) -> None:
    (home.profiles / "broken.yaml").write_text("version: 7")
    found = {name: (path, told) for name, path, told in listing(home)}
    assert list(found) == ["broken", "gpu", "starter", "workstation"]
    assert str(found["starter"][1]).startswith("One small chat model")
    problems = found["broken"][1]
    assert not isinstance(problems, str)
    assert problems[0].where == "version"


def test_the_profile_is_read_without_fastapi() -> None:
    code = "import sys, aigw_daemon.profile.find; print(sorted({'fastapi', 'httpx', 'starlette'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=dict(os.environ), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_example_of_the_documentation_is_a_profile() -> None:
    example = (REPOSITORY / "docs/profile.md").read_text().split("```yaml\n")[1].split("```")[0]
    assert chain(parse(example, "p"), "chat") == (Step(backend="llamacpp", model="llama-3.1-8b"),)
