"""GPUs as NVML would show them, as a test says: for a machine that has none, or whose processes must come and go."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from aigw_daemon.supervisor.gpu import Gpu

GIB = 2**30


def gpu(index: int, *, total: int = 80, free: int = 79, pids: Iterable[int] = ()) -> Gpu:
    """A GPU; sizes are GiB."""
    uuid = f"GPU-0000000{index}-aaaa-bbbb-cccc-0123456789ab"
    return Gpu(index, uuid, "NVIDIA H100 80GB HBM3", total * GIB, free * GIB, frozenset(pids))


@dataclass
class RecordedGpus:
    """An `Inventory`. ``gpus`` None: a machine without NVML."""

    gpus: list[Gpu] | None = field(default_factory=list)
    reads: int = 0

    async def read(self) -> tuple[Gpu, ...] | None:
        self.reads += 1
        return None if self.gpus is None else tuple(self.gpus)

    def change(self, index: int, **fields: object) -> None:
        """Have one GPU look different from now on."""
        assert self.gpus is not None
        self.gpus[index] = replace(self.gpus[index], **fields)  # type: ignore[arg-type]  # as dataclasses.replace takes them
