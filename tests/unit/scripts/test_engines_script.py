"""`scripts/engines` says where each thing is, installs what is asked for, and finds a proven vLLM proven."""

from pathlib import Path

import pytest

from scripts.setup import engines, vllm_proof
from scripts.setup.engines import WHAT, main
from tests.support.engines import PATHS, vllm_home


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", sorted(PATHS))
def test_a_path_is_printed_alone_and_nothing_is_installed(
    name: str, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--path", name]) == 0

    assert capsys.readouterr().out == f"{PATHS[name]()}\n"
    assert list(cache.iterdir()) == []


def test_all_is_what_is_installed_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    installed: list[str] = []
    monkeypatch.setattr(engines, "WHAT", WHAT | {"all": (lambda: installed.append("all"),)})

    assert main([]) == 0
    assert installed == ["all"]


def test_every_part_is_in_all() -> None:
    parts = {install for name in ("model", "llamacpp", "vllm") for install in WHAT[name]}

    assert set(WHAT["all"]) == parts


def test_an_unknown_engine_is_refused_with_the_choices(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["ollama"])

    assert ended.value.code == 2
    assert "choose from" in (error := capsys.readouterr().err)
    assert all(name in error for name in WHAT)


def test_a_proven_vllm_is_not_started_again(capsys: pytest.CaptureFixture[str]) -> None:
    vllm_home().mkdir(parents=True)
    (vllm_home() / "aigw-proof").touch()

    vllm_proof.prove()

    assert capsys.readouterr().out == ""
