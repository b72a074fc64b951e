"""Installations are made once, reused while they work, and made anew when they are torn."""

from pathlib import Path

import pytest

from scripts.setup.installation import Installation, ensure
from scripts.setup.steps import SetupError


class Recipe:
    """An installation whose whole content is one file; the trial run reads it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.times_made = 0

    def installation(self, recipe: str = "one") -> Installation:
        return Installation(home=self.home, recipe=recipe, fill=self.fill, trial=["cat", self.home / "content"])

    def fill(self, home: Path) -> None:
        home.mkdir()
        (home / "content").write_text("works")
        self.times_made += 1


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return Recipe(tmp_path / "engine")


def test_what_works_is_reused(recipe: Recipe) -> None:
    ensure(recipe.installation())
    ensure(recipe.installation())

    assert recipe.times_made == 1


def test_another_recipe_makes_it_anew(recipe: Recipe) -> None:
    ensure(recipe.installation("one"))
    ensure(recipe.installation("two"))

    assert recipe.times_made == 2


def test_what_does_not_run_any_more_is_made_anew(recipe: Recipe) -> None:
    ensure(recipe.installation())
    (recipe.home / "content").unlink()
    ensure(recipe.installation())

    assert recipe.times_made == 2
    assert (recipe.home / "content").read_text() == "works"


def test_what_was_killed_before_its_stamp_is_made_anew(recipe: Recipe) -> None:
    recipe.home.mkdir()
    (recipe.home / "content").write_text("half")
    ensure(recipe.installation())

    assert (recipe.home / "content").read_text() == "works"


def test_what_fails_leaves_nothing(recipe: Recipe) -> None:
    def fail(home: Path) -> None:
        recipe.fill(home)
        raise SetupError("cannot go on")

    with pytest.raises(SetupError, match="cannot go on"):
        ensure(Installation(home=recipe.home, recipe="one", fill=fail, trial=["true"]))

    assert not recipe.home.exists()


def test_what_was_installed_but_does_not_run_leaves_nothing(recipe: Recipe) -> None:
    installation = Installation(home=recipe.home, recipe="one", fill=recipe.fill, trial=["false"])

    with pytest.raises(SetupError, match="all was installed, but this fails:\n  false"):
        ensure(installation)

    assert not recipe.home.exists()
