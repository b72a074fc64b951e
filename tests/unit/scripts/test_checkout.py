"""The checkout's `.venv` is made, brought up to date or left alone, and a torn one is never used."""

from pathlib import Path

import pytest

from scripts.setup import checkout
from scripts.setup.checkout import Kind
from scripts.setup.steps import SetupError
from tests.support.checkout_copy import write_script


class Venv:
    """A `.venv` whose pip is a script: it notes what was installed, or fails."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.made = 0
        self.installed: list[str] = []
        self.fails_at: str | None = None

    def make(self, home: Path) -> Path:
        self.made += 1
        return write_script(home / "bin" / "python", "exit 0")

    def pip_install(self, python: Path, title: str, *arguments: str | Path) -> None:
        if self.fails_at == title:
            raise SetupError("cannot reach the package index")
        self.installed.append(title)

    @property
    def stamp(self) -> str:
        return (self.home / "aigw-lock").read_text()


@pytest.fixture
def venv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Venv:
    venv = Venv(tmp_path / ".venv")
    monkeypatch.setattr(checkout, "VENV", venv.home)
    monkeypatch.setattr(checkout, "PYTHON", venv.home / "bin" / "python")
    monkeypatch.setattr(checkout, "STAMP", venv.home / "aigw-lock")
    monkeypatch.setattr(checkout, "make_venv", venv.make)
    monkeypatch.setattr(checkout, "pip_install", venv.pip_install)
    return venv


OPERATOR = ["install what requirements.lock pins", "install aigw"]
DEVELOPER = ["install what requirements-dev.lock pins", "install aigw"]


def test_it_is_made_once(venv: Venv) -> None:
    checkout.ensure(Kind.OPERATOR)
    checkout.ensure(Kind.OPERATOR)

    assert (venv.made, venv.installed) == (1, OPERATOR)


def test_an_operators_is_brought_up_to_a_developers(venv: Venv) -> None:
    checkout.ensure(Kind.OPERATOR)
    checkout.ensure(Kind.DEVELOPER)

    assert (venv.made, venv.installed) == (1, OPERATOR + DEVELOPER)
    assert venv.stamp == Kind.DEVELOPER.stamp_text


def test_a_developers_serves_the_operator(venv: Venv) -> None:
    checkout.ensure(Kind.DEVELOPER)
    checkout.ensure(Kind.OPERATOR)

    assert (venv.made, venv.installed) == (1, DEVELOPER)


def test_an_outdated_one_is_brought_up_to_date(venv: Venv) -> None:
    checkout.ensure(Kind.OPERATOR)
    (venv.home / "aigw-lock").write_text("operator of another lock\n")
    checkout.ensure(Kind.OPERATOR)

    assert (venv.made, venv.installed) == (1, OPERATOR + OPERATOR)


def test_an_interrupted_one_is_made_anew(venv: Venv) -> None:
    checkout.ensure(Kind.OPERATOR)
    (venv.home / "aigw-lock").write_text(checkout.MAKING)
    (venv.home / "torn").touch()
    checkout.ensure(Kind.OPERATOR)

    assert venv.made == 2
    assert not (venv.home / "torn").exists()


def test_one_that_somebody_else_made_is_kept(venv: Venv) -> None:
    write_script(venv.home / "bin" / "python", "exit 0")
    (venv.home / "theirs").touch()
    checkout.ensure(Kind.OPERATOR)

    assert (venv.made, venv.installed) == (0, OPERATOR)
    assert (venv.home / "theirs").exists()


def test_one_that_does_not_run_is_made_anew(venv: Venv) -> None:
    write_script(venv.home / "bin" / "python", "exit 1")
    checkout.ensure(Kind.OPERATOR)

    assert venv.made == 1


def test_a_failure_leaves_no_half_made_one(venv: Venv) -> None:
    venv.fails_at = "install aigw"

    with pytest.raises(SetupError, match="cannot reach the package index"):
        checkout.ensure(Kind.OPERATOR)
    assert not venv.home.exists()


def test_a_failed_update_leaves_the_old_one_as_it_was(venv: Venv) -> None:
    checkout.ensure(Kind.OPERATOR)
    before = venv.stamp
    venv.fails_at = "install what requirements-dev.lock pins"

    with pytest.raises(SetupError, match="cannot reach the package index"):
        checkout.ensure(Kind.DEVELOPER)
    assert venv.stamp == before


def test_too_little_space_is_told_before_anything_is_made(venv: Venv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(checkout.SPACE, Kind.OPERATOR, 1 << 62)

    with pytest.raises(SetupError, match=r"cannot make room for aigw's environment: it needs \d+ MB in .* MB are free"):
        checkout.ensure(Kind.OPERATOR)
    assert not venv.home.exists()


def test_a_disk_that_fills_up_meanwhile_is_told_whatever_pip_said(venv: Venv, monkeypatch: pytest.MonkeyPatch) -> None:
    venv.fails_at = "install aigw"
    monkeypatch.setattr(checkout, "FULL", 1 << 62)

    with pytest.raises(SetupError, match="cannot go on: no space is left on the disk"):
        checkout.ensure(Kind.OPERATOR)
    assert not venv.home.exists()
