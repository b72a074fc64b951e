"""Which GPUs a backend gets, and what NVML's answers are taken for."""

import asyncio
import logging
import threading
from types import SimpleNamespace

import pytest

from aigw_daemon.supervisor.failures import FailureKind, Unrunnable
from aigw_daemon.supervisor.gpu import ANYWHERE, Gpu, NvmlInventory, Placement, Wanted, place
from tests.support.recorded_gpus import GIB, gpu

FULL, HALF, EMPTY = gpu(0, free=1), gpu(1, free=40), gpu(2, free=79)
ALL = (FULL, HALF, EMPTY)


@pytest.mark.parametrize(
    ("wanted", "indices"),
    [((0,), [0]), ((2, 1), [2, 1]), ((HALF.uuid, 0), [1, 0]), ((HALF.uuid.upper(),), [1]), ((1, HALF.uuid), [1])],
)
def test_named_gpus_are_given_as_they_are_named(wanted: Wanted, indices: list[int]) -> None:
    placement = place(wanted, ALL)
    assert [found.index for found in placement.devices] == indices
    assert placement.count == len(indices)


def test_count_takes_those_with_most_free_memory_and_sooner_those_that_rest() -> None:
    assert place(2, ALL).devices == (EMPTY, HALF)
    assert place(1, ALL, busy={EMPTY.uuid}).devices == (HALF,)
    assert place(3, ALL, busy={EMPTY.uuid}).devices == (HALF, FULL, EMPTY)


def test_engine_is_pinned_by_uuid_in_the_order_of_the_bus() -> None:
    assert place((1, 2), ALL).env == {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": f"{HALF.uuid},{EMPTY.uuid}",
    }
    assert place(0, ALL).env["CUDA_VISIBLE_DEVICES"] == "-1"
    assert place(None, ALL) == ANYWHERE
    assert ANYWHERE.env == {}


def test_without_an_inventory_names_are_passed_on_and_a_count_is_only_a_count() -> None:
    assert place((0, HALF.uuid), None).env["CUDA_VISIBLE_DEVICES"] == f"0,{HALF.uuid}"
    assert place(2, None) == Placement(None, 2)
    assert place(0, None).env["CUDA_VISIBLE_DEVICES"] == "-1"


@pytest.mark.parametrize(
    ("wanted", "found", "sentence"),
    [
        ((3,), (FULL,), f"there is no GPU 3: this machine has 0 (NVIDIA H100 80GB HBM3, {FULL.uuid})"),
        (("GPU-ffffffff",), (FULL,), "there is no GPU GPU-ffffffff: this machine has 0"),
        (4, ALL, "the profile asks for 4 GPUs, and this machine has 0 (NVIDIA"),
        ((0,), (), "there is no GPU 0: this machine has none"),
    ],
)
def test_gpu_that_is_not_there_is_told_with_those_that_are(
    wanted: Wanted, found: tuple[Gpu, ...], sentence: str
) -> None:
    with pytest.raises(Unrunnable) as refused:
        place(wanted, found)
    assert refused.value.failure.kind is FailureKind.MISSING_GPU
    assert refused.value.failure.permanent
    assert sentence in refused.value.failure.sentence


def test_sentence_about_a_missing_gpu_stays_the_same_while_memory_comes_and_goes() -> None:
    sentences = set()
    for free in (1, 40):
        with pytest.raises(Unrunnable) as refused:
            place((9,), [gpu(0, free=free)])
        sentences.add(str(refused.value))
    assert len(sentences) == 1


def test_emptied_placement_is_the_same_at_every_moment() -> None:
    assert place((0,), [gpu(0, free=1, pids=())]).emptied() == place((0,), [gpu(0, free=40)]).emptied()


class FakeNvmlError(Exception):
    pass


class FakeNvml(SimpleNamespace):
    """The functions of pynvml that are used, as nvidia-ml-py 13 answers them."""

    NVMLError = FakeNvmlError
    broken = False
    started = 0

    def nvmlInit(self) -> None:  # noqa: N802  # its name
        self.started += 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802  # its name
        if self.broken:
            raise FakeNvmlError("GPU is lost")
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802  # its name
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:  # noqa: N802  # its name
        return "GPU-1"

    def nvmlDeviceGetName(self, handle: int) -> bytes:  # noqa: N802  # its name
        return b"NVIDIA H200"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> object:  # noqa: N802  # its name
        return SimpleNamespace(total=141 * GIB, free=140 * GIB, used=1 * GIB)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[object]:  # noqa: N802  # its name
        return [SimpleNamespace(pid=17, usedGpuMemory=None)]


async def test_nvml_is_read_and_started_once() -> None:
    nvml = FakeNvml()
    inventory = NvmlInventory(lambda: nvml)
    expected = (Gpu(0, "GPU-1", "NVIDIA H200", 141 * GIB, 140 * GIB, frozenset({17})),)
    assert await inventory.read() == expected
    assert await inventory.read() == expected
    assert nvml.started == 1


async def test_driver_that_fails_is_asked_anew_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    nvml = FakeNvml()
    inventory = NvmlInventory(lambda: nvml)
    nvml.broken = True
    assert await inventory.read() is None
    assert await inventory.read() is None
    nvml.broken = False
    assert await inventory.read() is not None
    assert nvml.started == 3
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert told[0].endswith("the NVIDIA driver does not answer: GPU is lost")


async def test_missing_package_is_told_once_with_the_extra_that_brings_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    def missing() -> object:
        raise ModuleNotFoundError("No module named 'pynvml'")

    inventory = NvmlInventory(missing)
    assert await inventory.read() is None
    assert await inventory.read() is None
    assert [record.message.count("aigw's extra 'gpu' brings it") for record in caplog.records] == [1]


async def test_driver_that_hangs_is_not_waited_for_and_is_read_again_once_it_answers() -> None:
    hanging = threading.Event()

    def load() -> FakeNvml:
        hanging.wait(30)
        return FakeNvml()

    inventory = NvmlInventory(load, patience=0.2)
    assert await inventory.read() is None
    assert await inventory.read() is None
    hanging.set()
    found = None
    async with asyncio.timeout(10):
        while found is None:
            found = await inventory.read()
    assert found[0].uuid == "GPU-1"
