"""For another port, the quickstart writes a profile of its own, once."""

from pathlib import Path

import pytest
import yaml

from scripts.setup import starter
from scripts.setup.steps import SetupError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AIGW_HOME", str(tmp_path))
    return tmp_path


def test_the_default_port_runs_the_shipped_profile(home: Path) -> None:
    assert starter.profile_for(4000) == "starter"
    assert list(home.iterdir()) == []


def test_another_port_runs_a_copy_that_differs_in_the_port_only(home: Path) -> None:
    name = starter.profile_for(4100)
    copy = yaml.safe_load((home / "config" / "profiles" / f"{name}.yaml").read_text())

    assert copy.pop("gateway") == {"port": 4100}
    assert copy == yaml.safe_load(starter.SHIPPED.read_text())


def test_a_copy_that_is_there_is_left_as_its_owner_edited_it(home: Path) -> None:
    name = starter.profile_for(4100)
    copy = home / "config" / "profiles" / f"{name}.yaml"
    copy.write_text("edited")

    assert starter.profile_for(4100) == name
    assert copy.read_text() == "edited"


def test_a_home_that_cannot_be_made_is_told_in_one_sentence(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").touch()
    monkeypatch.setenv("AIGW_HOME", str(home / "file"))
    with pytest.raises(SetupError, match="cannot use the folder"):
        starter.profile_for(4100)


def test_a_profile_with_a_gateway_section_is_not_given_a_second_one() -> None:
    with pytest.raises(SetupError, match="has a `gateway` section of its own"):
        starter.with_port("version: 1\ngateway: {port: 5000}\n", 4100)
