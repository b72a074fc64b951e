"""Real NVML and a real CUDA process: pinned to one GPU, and stopped only when the GPU is free of it again."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aigw_daemon.home import Home
from aigw_daemon.supervisor.failures import FailureKind
from aigw_daemon.supervisor.gpu import Gpu, NvmlInventory
from aigw_daemon.words import State
from tests.support import cuda_server
from tests.support.supervision import fresh_home, profile, supervised

pytestmark = pytest.mark.gpu

TAKEN = 2**30
READY_SECONDS = 60.0


@pytest.fixture
def home() -> Iterator[Home]:
    with fresh_home() as made:
        yield made


async def gpus() -> tuple[Gpu, ...]:
    found = await NvmlInventory().read()
    assert found
    return found


def backend(wanted: str) -> str:
    command = f'[{sys.executable}, {Path(cuda_server.__file__)}, "{{host}}", "{{port}}", "{TAKEN}"]'
    return f"{{engine: command, command: {command}, gpus: {wanted}}}"


async def test_inventory_names_every_gpu_and_its_memory() -> None:
    found = await gpus()
    assert [gpu.index for gpu in found] == list(range(len(found)))
    assert len({gpu.uuid for gpu in found}) == len(found)
    for gpu in found:
        assert gpu.uuid.startswith("GPU-")
        assert gpu.name
        assert 0 <= gpu.free_bytes <= gpu.total_bytes


async def test_process_sees_its_gpu_only_and_leaves_all_of_its_memory_behind(home: Home) -> None:
    before = (await gpus())[-1]
    async with supervised(home, inventory=NvmlInventory()) as made:
        await made.supervisor.apply(profile(f"backends: {{a: {backend(f'[{before.index}]')}}}"))
        report = await made.reaches("a", State.READY, seconds=READY_SECONDS)
        assert [model.id for model in report.models] == [before.uuid]
        assert report.gpus == (before.index,)
        during = (await gpus())[-1]
        assert before.free_bytes - during.free_bytes >= TAKEN
        await made.supervisor.stop()
        after = (await gpus())[-1]
        assert after.free_bytes - during.free_bytes >= TAKEN
        assert report.pid not in after.pids


async def test_gpu_that_is_not_there_is_told_with_those_that_are(home: Home) -> None:
    found = await gpus()
    async with supervised(home, inventory=NvmlInventory()) as made:
        await made.supervisor.apply(profile(f"backends: {{a: {backend(f'[{len(found)}]')}}}"))
        report = await made.reaches("a", State.FAILED)
    assert report.failure is FailureKind.MISSING_GPU
    assert found[0].uuid in (report.why or "")
