"""vLLM's command line, memory, progress and failures, on the words of the real one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from aigw_daemon.home import Home
from aigw_daemon.link.messages import Secret
from aigw_daemon.models.resolve import resolve
from aigw_daemon.profile.backends import VllmBackend
from aigw_daemon.profile.load import load
from aigw_daemon.supervisor.engines.base import LaunchContext
from aigw_daemon.supervisor.engines.vllm import CONTEXT_BYTES, VllmEngine, fraction
from aigw_daemon.supervisor.failures import FailureKind, Unrunnable
from aigw_daemon.supervisor.gpu import Gpu, place
from aigw_daemon.supervisor.patience import progress
from aigw_daemon.words import EngineKind
from tests.support.engines import CHECKOUT
from tests.support.launching import KEY, PORT, Builder, explained, install, value
from tests.support.recorded_gpus import GIB, gpu
from tests.support.supervision import fresh_home

ONE = [gpu(0)]
TWO = [gpu(0), gpu(1)]


@pytest.fixture
def home() -> Iterator[Home]:
    with fresh_home() as made:
        yield made


@pytest.fixture
def vllm(home: Home) -> Path:
    return install(home.state / "bin", "vllm")


@pytest.fixture
def command(home: Home, vllm: Path) -> Builder:
    return Builder(home, EngineKind.VLLM, "model: org/m", {"PATH": str(vllm.parent)})


def test_command_line_is_explicit_on_the_loopback(command: Builder, vllm: Path) -> None:
    assert command().argv == (
        *(str(vllm), "serve", "org/m", "--served-model-name", "org/m"),
        *("--host", "127.0.0.1", "--port", str(PORT)),
    )


def test_address_cannot_be_changed_by_args(command: Builder) -> None:
    argv = command(", args: [--host, 0.0.0.0, --port, 80]").argv
    assert argv[-4:] == ("--host", "127.0.0.1", "--port", str(PORT))


def test_command_of_the_profile_takes_the_model_as_a_flag_unless_it_ends_in_serve(command: Builder, vllm: Path) -> None:
    module = command(f", command: [{vllm}, -m, vllm.entrypoints.openai.api_server], served_name: n")
    assert module.argv[:5] == (str(vllm), "-m", "vllm.entrypoints.openai.api_server", "--model", "org/m")
    assert value(module, "--served-model-name") == "n"
    assert command(f", command: [{vllm}, serve]").argv[:3] == (str(vllm), "serve", "org/m")


def test_key_is_in_the_environment_only(command: Builder) -> None:
    launch = command()
    assert launch.env["VLLM_API_KEY"] == KEY
    assert KEY not in " ".join(launch.argv)
    assert KEY not in repr(launch)


def test_tensor_parallel_size_is_the_number_of_gpus(command: Builder) -> None:
    assert "--tensor-parallel-size" not in command(gpus=ONE, wanted=(0,)).argv
    assert value(command(gpus=TWO, wanted=2), "--tensor-parallel-size") == "2"
    assert value(command(gpus=None, wanted=(0, 1)), "--tensor-parallel-size") == "2"


@pytest.mark.parametrize("args", ["--pipeline-parallel-size, '2'", "-tp=1", "--tensor_parallel_size=1"])
def test_profile_may_share_the_gpus_out_itself(command: Builder, args: str) -> None:
    assert "--tensor-parallel-size" not in command(f", args: [{args}]", gpus=TWO, wanted=2).argv


def test_memory_is_explicit_on_gpus_and_left_to_vllm_on_the_cpu(command: Builder) -> None:
    assert value(command(gpus=ONE, wanted=(0,)), "--gpu-memory-utilization") == "0.9"
    assert value(command(", memory: 0.45", gpus=ONE, wanted=(0,)), "--gpu-memory-utilization") == "0.45"
    assert "--gpu-memory-utilization" not in command().argv
    own = command(", args: [--gpu-memory-utilization=0.3]", gpus=ONE, wanted=(0,)).argv
    assert "--gpu-memory-utilization" not in own


def test_memory_as_a_size_is_a_fraction_of_the_whole_that_fits_into_what_is_free() -> None:
    assert fraction(20 * GIB, [gpu(0, total=80, free=79)]) == 0.25
    assert fraction(40 * GIB, [gpu(0, total=80, free=21)]) == (21 * GIB - CONTEXT_BYTES) / (80 * GIB)
    assert fraction(20 * GIB, [gpu(0, total=80, free=79), gpu(1, total=80, free=11)]) == 0.125
    assert fraction(20 * GIB, [gpu(0, total=80, free=0)]) == 0.0
    assert fraction(1 * GIB, [gpu(0, total=3, free=3)]) == 0.3333


def test_start_at_another_moment_is_the_same_command_line(command: Builder) -> None:
    roomy = command(", memory: 60GiB", gpus=ONE, wanted=(0,))
    tight = command(", memory: 60GiB", gpus=[gpu(0, free=30)], wanted=(0,))
    assert roomy.argv != tight.argv
    assert roomy.is_like(tight.argv)
    assert roomy.fingerprint() == tight.fingerprint()
    assert not roomy.is_like(command(", memory: 60GiB, args: [--x]", gpus=ONE, wanted=(0,)).argv)
    half, most = (command(f", memory: {part}", gpus=ONE, wanted=(0,)) for part in ("0.5", "0.8"))
    assert not half.is_like(most.argv)


@pytest.mark.parametrize(
    ("more", "kind", "sentence"),
    [
        (", env: {PATH: /nowhere}", FailureKind.MISSING_BINARY, "the program vllm is not there"),
        (", command: [/no/python, -m, x]", FailureKind.MISSING_BINARY, "the program /no/python is not there"),
        (", env: {A: '${NO_SUCH}'}", FailureKind.BAD_SETTING, "NO_SUCH is not set"),
        (", memory: 20GiB", FailureKind.BAD_SETTING, "there is no gpus in the profile"),
    ],
)
def test_what_cannot_run_is_told_before_it_is_started(
    command: Builder, more: str, kind: FailureKind, sentence: str
) -> None:
    with pytest.raises(Unrunnable) as refused:
        command(more)
    assert refused.value.failure.kind is kind
    assert sentence in refused.value.failure.sentence


@pytest.mark.parametrize(
    ("gpus", "kind", "sentence"),
    [
        (None, FailureKind.BAD_SETTING, "no NVML on this machine"),
        ([gpu(0, free=1)], FailureKind.OUT_OF_MEMORY, "no memory is left for it on GPU 0"),
    ],
)
def test_memory_that_can_not_be_given_is_told_before_it_is_started(
    command: Builder, gpus: list[Gpu] | None, kind: FailureKind, sentence: str
) -> None:
    with pytest.raises(Unrunnable) as refused:
        command(", memory: 20GiB", gpus=gpus, wanted=(0,))
    assert refused.value.failure.kind is kind
    assert sentence in refused.value.failure.sentence


def test_model_folder_that_is_not_there_is_told_before_it_is_started(home: Home, vllm: Path) -> None:
    folder = home.models / "m"
    command = Builder(home, EngineKind.VLLM, f"model: {folder}", {"PATH": str(vllm.parent)})
    with pytest.raises(Unrunnable, match=r"the model folder .*/m is not there"):
        command()
    folder.mkdir()
    before = command().fingerprint()
    assert command().argv[2] == str(folder)
    (folder / "config.json").write_text("{}")
    assert command().fingerprint() != before


def test_model_is_listed_with_the_length_that_it_was_started_with() -> None:
    section = VllmBackend.model_validate({"engine": EngineKind.VLLM})
    listing = {"object": "list", "data": [{"id": "qwen", "created": 1795336277, "max_model_len": 1024}]}
    found = VllmEngine().models(section, listing, None)
    assert [(model.id, model.created, model.context) for model in found] == [("qwen", 1795336277, 1024)]
    assert VllmEngine().models(section, None, None) == ()


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            "(APIServer pid=2) INFO 11-22 [model.py:733] Resolved architecture: LlamaForCausalLM",
            "found a LlamaForCausalLM",
        ),
        (
            "(EngineCore pid=3) INFO 11-22 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: model='m'",
            "vLLM 0.32.0 is setting up its engine",
        ),
        ("(Worker pid=4) INFO 11-22 [cpu_model_runner.py:68] Starting to load model m...", "loading the weights"),
        (
            "Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:00<00:00, 186.67it/s]",
            "loading the weights: 50 %",
        ),
        (
            "(Worker pid=4) INFO 11-22 [default_loader.py:501] Loading weights took 0.01 seconds",
            "the weights are loaded, after 0.01 s",
        ),
        ("(Worker pid=4) INFO [backends.py:1167] Dynamo bytecode transform time: 5.41 s", "compiling"),
        ("Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  31%|███ | 21/67", "capturing CUDA graphs: 31 %"),
        (
            "(Worker pid=4) INFO Graph capturing finished in 12 secs, took 0.52 GiB",
            "CUDA graphs are captured, after 12 s",
        ),
        (
            "(EngineCore pid=3) INFO [core.py:402] init engine (profile, create kv cache, warmup model) took 6.29 s",
            "the engine is up, after 6.29 s",
        ),
        ("(APIServer pid=2) INFO Starting vLLM server on http://127.0.0.1:18231", "starting to listen"),
    ],
)
def test_log_tells_how_far_a_start_is(line: str, sentence: str) -> None:
    chatter = "(Worker pid=4) WARNING 11-22 [vllm.py:1703] Enforce eager set, disabling torch.compile, CUDAGraphs"
    assert progress(VllmEngine.stages, ["Triton is installed", line, chatter]) == sentence


CAPTURED = {
    "a missing folder": (
        """
    raise HFValidationError(
huggingface_hub.errors.HFValidationError: Repo id must use alphanumeric chars, '-', '_' or '.'. \
The name cannot start or end with '-' or '.' and the maximum length is 96: './no-such-model'.
""",
        FailureKind.MISSING_MODEL,
        "the model ./no-such-model is neither a folder nor a model of the Hugging Face hub",
    ),
    "an unknown flag": (
        """
                     [model_tag]
api_server.py: error: unrecognized arguments: --nope
""",
        FailureKind.BAD_FLAG,
        "vLLM doesn't take its arguments (unrecognized arguments: --nope)",
    ),
    "a length beyond the model": (
        """
pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
  Value error, User-specified max_model_len (999999) is greater than the derived max_model_len \
(max_position_embeddings=2048.0 or model_max_length=None in model's config.json). To allow overriding this maximum
""",
        FailureKind.BAD_FLAG,
        "--max-model-len 999999 is more than the model's own 2048",
    ),
    "a taken port": (
        """
    sock.bind(addr)
OSError: [Errno 98] Address already in use
""",
        FailureKind.PORT_TAKEN,
        "its port is taken",
    ),
}
"""Last lines of vLLM 0.32 on a CPU."""

FROM_SOURCE = {
    "a gated model": (
        """
OSError: You are trying to access a gated repo.
Make sure to have access to it at https://huggingface.co/org/gated.
""",
        FailureKind.GATED_MODEL,
        "env: {HF_TOKEN: '${HF_TOKEN}'}",
    ),
    "an unknown model": (
        """
OSError: org/none is not a local folder and is not a valid model identifier listed on 'https://huggingface.co/models'
""",
        FailureKind.MISSING_MODEL,
        "the Hugging Face hub has no model org/none",
    ),
    "a GPU that others fill": (
        """
(EngineCore pid=3) ValueError: Free memory on device cuda:0 (3.2/79.1 GiB) on startup is less than desired GPU \
memory utilization (0.9, 71.2 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.
""",
        FailureKind.OUT_OF_MEMORY,
        "only 3.2 of 79.1 GiB are free",
    ),
    "a full machine": (
        """
ValueError: Available memory on node 0 (2.0/12.84 GiB) on startup is less than desired CPU memory utilization (0.92,
""",
        FailureKind.OUT_OF_MEMORY,
        "only 2.0 of 12.84 GiB are free",
    ),
    "a cache that is too small": (
        """
(EngineCore pid=3) ValueError: To serve at least one request with the model's max seq len (131072), (16.0 GiB KV \
cache is needed, which is larger than the available KV cache memory (4.25 GiB). Based on the available memory,
""",
        FailureKind.OUT_OF_MEMORY,
        "one request of full length needs 16.0 GiB of cache, and 4.25 are left",
    ),
    "no cache at all": (
        """
(EngineCore pid=3) ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`
""",
        FailureKind.OUT_OF_MEMORY,
        "the weights leave no memory for the cache",
    ),
    "out of GPU memory": (
        """
(Worker pid=4) torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 7.00 GiB. GPU 0 has a total capacity
""",
        FailureKind.OUT_OF_MEMORY,
        "the GPU's memory is full",
    ),
    "heads that can't be shared": (
        """
  Value error, Total number of attention heads (32) must be divisible by tensor parallel size (3).
""",
        FailureKind.BAD_SETTING,
        "the model's 32 attention heads can't be shared by 3 GPUs",
    ),
}
"""As the sources of vLLM 0.32, torch and transformers write them."""


@pytest.mark.parametrize(
    ("log", "kind", "sentence"), [*CAPTURED.values(), *FROM_SOURCE.values()], ids=[*CAPTURED, *FROM_SOURCE]
)
def test_failure_is_read_off_the_log(log: str, kind: FailureKind, sentence: str) -> None:
    failure = explained(EngineKind.VLLM, log)
    assert failure.kind is kind
    assert sentence in failure.sentence
    assert failure.lines


def test_shipped_profile_runs_two_models_each_on_a_gpu_of_its_own(home: Home, vllm: Path) -> None:
    shipped = load(CHECKOUT / "profiles/gpu.yaml")
    environ = {"PATH": str(vllm.parent)}
    seen = set()
    for name, section in shipped.backends.items():
        assert isinstance(section, VllmBackend)
        placement = place(section.gpus, TWO)
        context = LaunchContext(name, section, shipped, home, PORT, Secret(KEY), environ, resolve, placement)
        assert value(VllmEngine().launch(context), "--gpu-memory-utilization") == "0.9"
        seen.add(placement.env["CUDA_VISIBLE_DEVICES"])
    assert seen == {gpu.uuid for gpu in TWO}
