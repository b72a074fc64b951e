"""vLLM: one server for one model, made for GPUs.

It refuses connections for the whole of its start, a minute or many, so its log is what tells how far it is. Its engine
and its workers are children that outlive a leader that was killed, and it would share its port with them silently
(SO_REUSEPORT): every start therefore sweeps first and looks at the port (rules A8, A15).
"""

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from aigw_daemon.link.messages import ModelView
from aigw_daemon.profile.backends import BackendSection, VllmBackend
from aigw_daemon.supervisor.engines.base import LOOPBACK, Counters, Launch, LaunchContext
from aigw_daemon.supervisor.engines.launching import own_environment, program
from aigw_daemon.supervisor.engines.listing import entries, model_view, positive
from aigw_daemon.supervisor.engines.vllm_signs import SIGNS
from aigw_daemon.supervisor.failures import FailureKind, unrunnable
from aigw_daemon.supervisor.gpu import Gpu, Placement
from aigw_daemon.supervisor.patience import stage
from aigw_daemon.words import EngineKind

BINARY: Final = "vllm"
KEY_VARIABLE: Final = "VLLM_API_KEY"
MEMORY_FLAG: Final = "--gpu-memory-utilization"
DEFAULT_FRACTION: Final = 0.9
"""vLLM's own default has changed between its versions; ours doesn't."""
CONTEXT_BYTES: Final = 2**30
"""What the driver takes on each GPU for an engine's context, before vLLM measures what is free."""
FILES: Final = 1000
"""Of a model's folder, how many are looked at for a change."""
_STEPS: Final = 10_000
"""Fractions are rounded down to so many steps: rounded up, they could ask for more than is free."""
_PARALLEL_FLAGS: Final = ("--tensor-parallel-size", "-tp", "--pipeline-parallel-size", "-pp")
_LIMIT_FLAGS: Final = (MEMORY_FLAG, "--kv-cache-memory-bytes")


class VllmEngine:
    """Starts and reads ``vllm serve``. See Engine."""

    kind = EngineKind.VLLM
    health_path = "/health"
    models_path = "/v1/models"
    props_path: str | None = None
    start_timeout = 7200.0
    """Weights may have to be downloaded, and compiling has been seen to take more than half an hour."""
    stall_timeout: float | None = 300.0
    has_key = True
    counters: Counters | None = Counters(
        "/metrics", frozenset({"vllm:prompt_tokens_total", "vllm:generation_tokens_total"})
    )
    stages = (
        stage(r"Loading (?:safetensors|pt|bin)? ?checkpoint shards:\s+(\d+)%", "loading the weights: {0} %"),
        stage(r"Loading weights took ([\d.]+) seconds", "the weights are loaded, after {0} s"),
        stage(r"(?:Starting to load model|Loading model from scratch)", "loading the weights"),
        stage(r"Capturing CUDA graphs?[^:]*:\s+(\d+)%", "capturing CUDA graphs: {0} %"),
        stage(r"Graph capturing finished in (\d+) secs", "CUDA graphs are captured, after {0} s"),
        stage(r"Compiling a graph for|Dynamo bytecode transform time|torch\.compile (?:took|takes)", "compiling"),
        stage(
            r"init engine \(profile, create kv cache, warmup model\) took ([\d.]+) s", "the engine is up, after {0} s"
        ),
        stage(r"Starting vLLM (?:API )?server", "starting to listen"),
        stage(r"Initializing a V1 LLM engine \(v([^)]+)\)", "vLLM {0} is setting up its engine"),
        stage(r"Resolved architecture: (\w+)", "found a {0}"),
    )
    signs = SIGNS

    def launch(self, context: LaunchContext) -> Launch:
        """See Engine."""
        section = context.section
        if not isinstance(section, VllmBackend) or section.model is None:
            raise unrunnable(FailureKind.BAD_SETTING, f"the backend {context.name} names no model: add model: NAME")
        own = own_environment(context.name, section.env, context.environ)
        env = {**context.inherited, **own, KEY_VARIABLE: context.api_key.value}
        model, files = _model(section.model)
        runner = _runner(section, env.get("PATH", os.defpath))
        named = (model,) if runner[-1] == "serve" else ("--model", model)
        # What aigw decides comes last: the last one of a flag that is given twice counts.
        argv = (*runner, *named, *section.args, *_arguments(context, section))
        varying = frozenset({MEMORY_FLAG}) if isinstance(section.memory, int) else frozenset[str]()
        return Launch(argv, env, (*files, Path(runner[0])), varying)

    def models(self, _section: BackendSection, listing: Any, _props: Any) -> tuple[ModelView, ...]:
        """See Engine: the one model, with the length that it was started with."""
        return tuple(model_view(entry, positive(entry.get("max_model_len"))) for entry in entries(listing))

    def concurrency(self, _props: Any) -> int | None:
        """See Engine: it doesn't say, and queues by itself."""
        return None


def fraction(memory: float, devices: Sequence[Gpu]) -> float:
    """The part of each GPU that vLLM may take, as it counts: of the whole, the same on all of them.

    ``memory`` is that already, or bytes (an int): then no more than what is free on the fullest GPU, less what its
    context takes. 0 when nothing is left.
    """
    if isinstance(memory, float):
        return memory
    parts = ((min(memory, gpu.free_bytes - CONTEXT_BYTES) / gpu.total_bytes) for gpu in devices)
    return max(0.0, math.floor(min(parts) * _STEPS) / _STEPS)


def _model(said: str) -> tuple[str, tuple[Path, ...]]:
    """The model as vLLM is told it, and the files that it is known by. Raises Unrunnable for a folder that isn't."""
    if not said.startswith(("/", "~")):
        return said, ()
    folder = Path(said).expanduser()
    if not folder.exists():
        raise unrunnable(FailureKind.MISSING_MODEL, f"the model folder {folder} is not there: check model")
    # Which of them a start failed for nobody knows: a weight may be fetched again, or a tokenizer be added.
    return str(folder), (folder, *sorted(folder.glob("*"))[:FILES])


def _runner(section: VllmBackend, path: str) -> tuple[str, ...]:
    """The program and what comes before vLLM's own arguments."""
    first, *rest = section.command or (BINARY, "serve")
    advice = "install vLLM, say how it is started (command: [/its/venv/bin/vllm, serve]), or attach: to a running one"
    return program(first, path, advice), *rest


def _arguments(context: LaunchContext, section: VllmBackend) -> Iterator[str]:
    placement = context.placement
    if placement.count > 1 and not _says(section.args, _PARALLEL_FLAGS):
        yield from ("--tensor-parallel-size", str(placement.count))
    if not _says(section.args, _LIMIT_FLAGS):
        yield from _memory(section, placement)
    yield from ("--served-model-name", *(section.served_models or ()))
    yield from ("--host", LOOPBACK, "--port", str(context.port))


def _memory(section: VllmBackend, placement: Placement) -> Iterator[str]:
    memory, devices = section.memory, placement.devices
    if memory is None and not devices:
        # On a CPU the same flag means the machine's memory: that is left to vLLM.
        return
    if isinstance(memory, int) and not devices:
        raise unrunnable(
            FailureKind.BAD_SETTING,
            "memory as a size needs to know the GPUs, and there is no gpus in the profile or no NVML on this machine: "
            "name the GPUs and install aigw's extra 'gpu', or give memory as a fraction",
        )
    part = fraction(DEFAULT_FRACTION if memory is None else memory, devices)
    if part <= 0:
        gpus = ", ".join(map(str, devices))
        raise unrunnable(FailureKind.OUT_OF_MEMORY, f"no memory is left for it on GPU {gpus}: stop what runs there")
    yield from (MEMORY_FLAG, f"{part:g}")


def _says(args: Sequence[str], flags: Sequence[str]) -> bool:
    """Whether the profile gives one of these flags itself; vLLM takes underscores for dashes."""
    return any(word.partition("=")[0].replace("_", "-") in flags for word in args)
