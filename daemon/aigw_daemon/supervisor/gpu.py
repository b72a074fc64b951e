"""The GPUs of this machine as NVML shows them, and which of them a backend gets: reading, and pure choices.

NVML is the driver's own library; the package nvidia-ml-py (aigw's extra ``gpu``) speaks to it. Without either,
everything works: what a profile asks for is then handed to the engine unchecked, and the log says so once.
"""

import asyncio
import importlib
import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from aigw_daemon.supervisor.failures import FailureKind, unrunnable

VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
ORDER: Final = "CUDA_DEVICE_ORDER"
NONE_VISIBLE: Final = "-1"
"""An index that no GPU has: CUDA then shows none, where an empty variable reads as an unset one to some programs."""
READ_SECONDS: Final = 10.0
"""For one look: a driver that has to wake up takes seconds, one that has failed may never answer."""
_PACKAGE: Final = "pynvml"

log = logging.getLogger(__name__)

Wanted = tuple[int | str, ...] | int | None
"""As a profile says it: indices and UUIDs, or how many; None: the engine's choice."""


@dataclass(frozen=True)
class Gpu:
    """One GPU at one moment. ``pids`` are the processes that compute on it, as the driver numbers them."""

    index: int
    """As nvidia-smi counts: by PCI bus."""
    uuid: str
    name: str
    total_bytes: int
    free_bytes: int
    pids: frozenset[int] = frozenset()

    def __str__(self) -> str:
        # Nothing that changes by itself: a failure that names it must read the same as long as it is the same.
        return f"{self.index} ({self.name}, {self.uuid})"


@dataclass(frozen=True)
class Placement:
    """Where a backend runs."""

    visible: tuple[str, ...] | None = None
    """What CUDA is to show it, UUIDs where they are known; None: whatever the engine finds."""
    count: int = 0
    """How many GPUs it was given; 0: the engine chooses, or none."""
    devices: tuple[Gpu, ...] = ()
    """The same as NVML saw them; empty without it."""

    @property
    def env(self) -> Mapping[str, str]:
        """The variables that pin it."""
        if self.visible is None:
            return {}
        return {ORDER: "PCI_BUS_ID", VISIBLE: ",".join(self.visible) or NONE_VISIBLE}

    def emptied(self) -> "Placement":
        """As if nothing ran on the GPUs: what two looks at different times have in common."""
        return replace(self, devices=tuple(replace(gpu, free_bytes=gpu.total_bytes) for gpu in self.devices))


ANYWHERE: Final = Placement()
"""The profile says nothing of GPUs."""


class Inventory(Protocol):
    """Where GPUs are looked up; tests have a recorded one."""

    async def read(self) -> tuple[Gpu, ...] | None:
        """All GPUs as they are now, by index; None when nobody can tell."""


class NvmlInventory:
    """The real one. ``load`` gives the NVML bindings, or raises ImportError; ``patience`` is seconds for one look."""

    def __init__(
        self, load: Callable[[], Any] = lambda: importlib.import_module(_PACKAGE), *, patience: float = READ_SECONDS
    ) -> None:
        self._load = load
        self._patience = patience
        self._nvml: Any = None
        self._one_at_a_time = threading.Lock()
        self._complained = False

    async def read(self) -> tuple[Gpu, ...] | None:
        """See Inventory. A driver that is not there yet is looked for again each time."""
        # A thread of its own, which nobody waits for at the end: one that a driver hangs in never comes back.
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[tuple[Gpu, ...] | None] = loop.create_future()
        threading.Thread(target=self._answer, args=(loop, answer), name="nvml", daemon=True).start()
        try:
            async with asyncio.timeout(self._patience):
                return await answer
        except TimeoutError:
            self._complain(f"the NVIDIA driver does not answer within {self._patience:g} s")
            return None

    def _answer(self, loop: asyncio.AbstractEventLoop, answer: "asyncio.Future[tuple[Gpu, ...] | None]") -> None:
        if not self._one_at_a_time.acquire(timeout=self._patience):
            return
        try:
            found = self._read()
        finally:
            self._one_at_a_time.release()
        with suppress(RuntimeError):  # the loop may be over by now
            loop.call_soon_threadsafe(_settle, answer, found)

    def _read(self) -> tuple[Gpu, ...] | None:
        try:
            nvml = self._nvml = self._nvml or _started(self._load())
            return tuple(_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))
        except ImportError:
            self._complain("the Python package nvidia-ml-py is not installed (aigw's extra 'gpu' brings it)")
        except Exception as error:  # noqa: BLE001  # NVML makes its classes at run time, and none may end a start
            # Begun anew the next time: after a reset of the driver the old session is dead.
            self._nvml = None
            self._complain(f"the NVIDIA driver does not answer: {error}")
        return None

    def _complain(self, why: str) -> None:
        if not self._complained:
            log.info("GPUs are neither checked nor waited for, and engines run on the CPU where there is none: %s", why)
            self._complained = True


def place(wanted: Wanted, found: Sequence[Gpu] | None, busy: Collection[str] = ()) -> Placement:
    """Choose GPUs. A count takes those with the most free memory, sooner those that are not ``busy`` (UUIDs).

    Raises Unrunnable for a GPU that isn't there.
    """
    if wanted is None:
        return ANYWHERE
    if found is None:
        return _unchecked(wanted)
    devices = _most_free(wanted, found, busy) if isinstance(wanted, int) else _named(wanted, found)
    return Placement(tuple(gpu.uuid for gpu in devices), len(devices), devices)


def _settle(answer: "asyncio.Future[tuple[Gpu, ...] | None]", found: tuple[Gpu, ...] | None) -> None:
    if not answer.done():
        answer.set_result(found)


def _started(nvml: Any) -> Any:
    nvml.nvmlInit()
    return nvml


def _gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(
        index=index,
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        name=_text(nvml.nvmlDeviceGetName(handle)),
        total_bytes=int(memory.total),
        free_bytes=int(memory.free),
        pids=frozenset(int(process.pid) for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)),
    )


def _text(value: str | bytes) -> str:
    """Older bindings answer bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _unchecked(wanted: tuple[int | str, ...] | int) -> Placement:
    """Without an inventory: named GPUs as they are named, and of a count only the number."""
    if isinstance(wanted, int):
        return Placement((), 0) if wanted == 0 else Placement(None, wanted)
    return Placement(tuple(map(str, wanted)), len(wanted))


def _most_free(count: int, found: Sequence[Gpu], busy: Collection[str]) -> tuple[Gpu, ...]:
    if count > len(found):
        raise unrunnable(FailureKind.MISSING_GPU, f"the profile asks for {count} GPUs, and {_there(found)}")
    ranked = sorted(found, key=lambda gpu: (gpu.uuid in busy, -gpu.free_bytes, gpu.index))
    return tuple(ranked[:count])


def _named(wanted: Sequence[int | str], found: Sequence[Gpu]) -> tuple[Gpu, ...]:
    known: dict[int | str, Gpu] = {gpu.index: gpu for gpu in found} | {gpu.uuid.lower(): gpu for gpu in found}
    keys = [name.lower() if isinstance(name, str) else name for name in wanted]
    if missing := [str(name) for name, key in zip(wanted, keys, strict=True) if key not in known]:
        raise unrunnable(FailureKind.MISSING_GPU, f"there is no GPU {', '.join(missing)}: {_there(found)}")
    return tuple(dict.fromkeys(known[key] for key in keys))


def _there(found: Sequence[Gpu]) -> str:
    if not found:
        return "this machine has none: remove gpus from the profile, or see what nvidia-smi says"
    return f"this machine has {', '.join(map(str, found))}: correct gpus in the profile"
