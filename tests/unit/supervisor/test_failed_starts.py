"""What a failed start is told as: its class, whether another try can help, and the one line that says it."""

from textwrap import dedent

import pytest

from aigw_daemon.supervisor.engines.registry import ENGINES
from aigw_daemon.supervisor.failures import Failure, FailureKind, classify
from aigw_daemon.words import EngineKind

GIB = 2**30
MEMORY = 24 * GIB
"""Of the machine on which the logs were written."""

VLLM_NOISE = """\
(APIServer pid=2) WARNING 11-28 10:15:09 [system_utils.py:255] Found ulimit of 20000 and failed to automatically \
increase with error current limit exceeds maximum limit. This can cause fd limit errors like `OSError: [Errno 24] Too \
many open files`. Consider increasing with ulimit -n
(APIServer pid=2) INFO 11-28 10:15:09 [model.py:733] Resolved architecture: LlamaForCausalLM
(APIServer pid=2) WARNING 11-28 10:18:02 [model.py:2660] User-specified max_model_len (50000000) is greater than the \
derived max_model_len (max_position_embeddings=2048.0 or model_max_length=None in model's config.json).
"""


def worker(line: str) -> str:
    """A failure of vLLM's worker, with what its engine and its server say of it afterwards."""
    return dedent(
        f"""\
        (Worker pid=4) ERROR 11-28 10:15:33 [multiproc_executor.py:953] WorkerProc failed to start.
        (Worker pid=4) ERROR 11-28 10:15:33 [multiproc_executor.py:953] Traceback (most recent call last):
        (Worker pid=4) ERROR 11-28 10:15:33 [multiproc_executor.py:953]   File "/v/vllm/worker.py", line 9, in load
        (Worker pid=4) ERROR 11-28 10:15:33 [multiproc_executor.py:953]     raise ValueError(
        (Worker pid=4) ERROR 11-28 10:15:33 [multiproc_executor.py:953] {line}
        (EngineCore pid=3) ERROR 11-28 10:15:35 [core.py:1510] EngineCore failed to start.
        (EngineCore pid=3) ERROR 11-28 10:15:35 [core.py:1510] Traceback (most recent call last):
        (EngineCore pid=3) ERROR 11-28 10:15:35 [core.py:1510]   File "/v/vllm/v1/engine/core.py", line 1482, in run
        (EngineCore pid=3) ERROR 11-28 10:15:35 [core.py:1510]     engine_core = EngineCoreProc(*args, **kwargs)
        (EngineCore pid=3) ERROR 11-28 10:15:35 [core.py:1510]                   ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
        (EngineCore pid=3) ERROR 11-28 10:15:35 [core.py:1510] Exception: WorkerProc initialization failed due to an \
exception in a background process. See stack trace for root cause.
        Traceback (most recent call last):
          File "<frozen runpy>", line 198, in _run_module_as_main
        RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {{'EngineCore': 1}}
        """
    )


def server(*lines: str) -> str:
    """A failure of vLLM's server itself."""
    frames = 'Traceback (most recent call last):\n  File "/v/vllm/entry.py", line 61, in build\n    raise OSError(\n'
    return frames + "\n".join(lines)


VALIDATION = "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig"
VLLM = {
    "folder without config.json": (
        server(
            VALIDATION,
            "  Value error, Invalid repository ID or local directory specified: '/models/noconfig'.",
            "Please verify the following requirements:",
        ),
        FailureKind.MODEL_UNREADABLE,
        "the folder /models/noconfig has no config.json",
    ),
    "hub switched off": (
        server(
            "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached snapshot folder for the "
            "specified revision on the local disk and outgoing traffic has been disabled. To enable repo look-ups"
        ),
        FailureKind.MISSING_MODEL,
        "HF_HUB_OFFLINE keeps vLLM from the Hugging Face hub, and this machine has no copy of the model",
    ),
    "config.json that is no JSON": (
        server(
            "json.decoder.JSONDecodeError: Expecting property name enclosed in double quotes: line 2 column 1",
            "OSError: It looks like the config file at '/models/m/config.json' is not a valid JSON file.",
        ),
        FailureKind.MODEL_UNREADABLE,
        "the file /models/m/config.json is broken",
    ),
    "weights that are cut off": (
        worker(
            "safetensors._safetensors_rust.SafetensorError: Error while deserializing header: incomplete metadata, "
            "file not fully covered"
        ),
        FailureKind.MODEL_UNREADABLE,
        "the model's weights are cut off or broken (Error while deserializing header: incomplete metadata",
    ),
    "weights that are cut off in the header": (
        worker(
            "safetensors._safetensors_rust.SafetensorError: Error while deserializing header: invalid header length"
        ),
        FailureKind.MODEL_UNREADABLE,
        "the model's weights are cut off or broken",
    ),
    "no weights": (
        worker("RuntimeError: Cannot find any model weights with `/models/noweights`"),
        FailureKind.MODEL_UNREADABLE,
        "the model /models/noweights has no weights",
    ),
    "no tokenizer": (
        server("ValueError: Couldn't instantiate the backend tokenizer from one of: "),
        FailureKind.MODEL_UNREADABLE,
        "the model has no tokenizer",
    ),
    "architecture that Transformers lacks": (
        (
            "(APIServer pid=2) ERROR 11-28 10:17:32 [repo_utils.py:126] Error parsing config for /models/arch: The "
            "checkpoint you are trying to load has model type `frob` but Transformers does not recognize this."
        ),
        FailureKind.MODEL_UNREADABLE,
        "this vLLM doesn't know the model's architecture (frob)",
    ),
    "architecture that vLLM lacks": (
        server(
            VALIDATION,
            "  Value error, Model architectures ['FrobForCausalLM'] are not supported for now. Supported: dict_keys([",
        ),
        FailureKind.MODEL_UNREADABLE,
        "this vLLM doesn't know the model's architecture ('FrobForCausalLM')",
    ),
    "cache beyond the machine": (
        worker(
            "ValueError: Available memory on node 0 (17.2/19.09 GiB) on kv cache allocation is less than requested "
            "memory for kv (4000.0 GiB). Decrease --kv-cache-memory-bytes, VLLM_CPU_KVCACHE_SPACE, or reduce CPU memory"
        ),
        FailureKind.OUT_OF_MEMORY,
        "the cache was to take 4000.0 GiB of 19.09 GiB of memory: lower VLLM_CPU_KVCACHE_SPACE",
    ),
    "part of memory that is too small for the model": (
        worker(
            "ValueError: Available memory on node 0 (17.28/19.09 GiB) on kv cache allocation is less than requested "
            "memory for kv (-0.88/0.02 GiB). Reduce CPU memory used by other processes."
        ),
        FailureKind.OUT_OF_MEMORY,
        "the model alone takes more than the 0.02 GiB that it may use",
    ),
    "allocation beyond the machine": (
        worker(
            "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
            "you tried to allocate 26600000000 bytes. Error code 12 (Cannot allocate memory)"
        ),
        FailureKind.OUT_OF_MEMORY,
        "the machine's memory is too small, 24.8 GiB at once were refused: lower --max-model-len",
    ),
    "module missing": (
        (
            "/v/bin/python: Error while finding module specification for 'vllm.entrypoints.openai.api_server' "
            "(ModuleNotFoundError: No module named 'vllm')"
        ),
        FailureKind.MISSING_BINARY,
        "its Python lacks the module vllm",
    ),
    "package missing": (
        "/v/bin/python: No module named vllm",
        FailureKind.MISSING_BINARY,
        "its Python lacks the module vllm",
    ),
}
"""Lines of vLLM 0.32 on a CPU, each in the place where it was found."""

FROM_SOURCE = {
    "unknown to the hub": (
        server("huggingface_hub.errors.RepositoryNotFoundError: 404 Client Error. (Request ID: Root=1-2)", "")
        + "\nRepository Not Found for url: https://huggingface.co/api/models/org/none/revision/main.",
        FailureKind.MISSING_MODEL,
        "the Hugging Face hub has no model org/none",
    ),
    "repository without a model": (
        server(
            "OSError: org/m does not appear to have a file named config.json. Checkout 'https://huggingface.co/org/m'"
        ),
        FailureKind.MODEL_UNREADABLE,
        "the model org/m has no file config.json",
    ),
    "settings that it refuses": (
        server("pydantic_core.ValidationError: 1 validation error for VllmConfig", "  Value error, no such thing: x"),
        FailureKind.BAD_FLAG,
        "vLLM refuses its settings (no such thing: x)",
    ),
    "library missing": (
        server("ImportError: libcudart.so.12: cannot open shared object file: No such file or directory"),
        FailureKind.MISSING_BINARY,
        "it lacks the library libcudart.so.12",
    ),
    "file that it may not read": (
        server("PermissionError: [Errno 13] Permission denied: '/models/m/config.json'"),
        FailureKind.BAD_SETTING,
        "it may not open /models/m/config.json",
    ),
}
"""As the sources of huggingface_hub, transformers, pydantic and Python write them."""

LOAD_FAILED = """
0.00.005.165 E llama_model_load_from_file_impl: failed to load model
0.00.244.604 E cmn  common_init_: failed to load model '/models/m.gguf'
0.00.244.641 E srv    load_model: failed to load model, '/models/m.gguf'
0.00.244.656 I srv    operator(): operator(): cleaning up before exit...
0.00.247.251 E srv  llama_server: exiting due to model loading error
"""
LLAMACPP = {
    "file that is cut off": (
        (
            "0.00.243.772 E llama_model_load: error loading model: tensor 'blk.16.ffn_down.weight' data is not within "
            f"the file bounds, model is corrupted or incomplete{LOAD_FAILED}"
        ),
        FailureKind.MODEL_UNREADABLE,
        "llama.cpp can't read the model /models/m.gguf: it is cut off or broken",
    ),
    "file that is cut off in the header": (
        f"0.00.004.924 E gguf_init_from_reader: failed to read key-value pairs{LOAD_FAILED}",
        FailureKind.MODEL_UNREADABLE,
        "llama.cpp can't read the model /models/m.gguf: it is cut off or broken",
    ),
    "file of another kind": (
        f"0.00.004.731 E gguf_init_from_reader: invalid magic characters: 'hell', expected 'GGUF'{LOAD_FAILED}",
        FailureKind.MODEL_UNREADABLE,
        "llama.cpp can't read the model /models/m.gguf: it is no GGUF file",
    ),
    "file of a newer version": (
        (
            "0.00.005.656 E gguf_init_from_reader: this GGUF file is version 99 but this software only supports up to "
            f"version 3{LOAD_FAILED}"
        ),
        FailureKind.MODEL_UNREADABLE,
        "llama.cpp can't read the model /models/m.gguf: it has version 99 of GGUF, and this llama.cpp knows 3",
    ),
    "unknown architecture": (
        f"0.00.236.079 E llama_model_load: error loading model: unknown model architecture: 'frobx'{LOAD_FAILED}",
        FailureKind.MODEL_UNREADABLE,
        "llama.cpp can't read the model /models/m.gguf: it doesn't know the architecture frobx",
    ),
    "context beyond the machine": (
        (
            "0.06.352.000 W common_fit_params: failed to fit params to free device memory: abort\n"
            "0.06.353.294 E ggml_aligned_malloc: insufficient memory (attempted to allocate 659182.50 MB)\n"
            "0.06.354.586 E ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 691202949120\n"
            "0.06.542.976 E llama_init_from_model: failed to initialize the context: failed to allocate buffer"
        ),
        FailureKind.OUT_OF_MEMORY,
        "the model and its context don't fit into memory, 643.7 GiB at once were refused",
    ),
    "library missing": (
        "llama-server: error while loading shared libraries: libgomp.so.1: cannot open shared object file",
        FailureKind.MISSING_BINARY,
        "its program lacks the library libgomp.so.1",
    ),
    "build for a newer system": (
        "llama-server: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by llama-server)",
        FailureKind.MISSING_BINARY,
        "its program was built for a newer system (GLIBC_2.38 is missing)",
    ),
}
"""Lines of llama-server and, of the last two, of the dynamic linker."""

OLLAMA = {
    "folder that is a file": (
        "Error: mkdir /srv/models: not a directory: ensure path elements are traversable",
        FailureKind.BAD_SETTING,
        "Ollama can't make its folder /srv/models (not a directory)",
    ),
    "home that is not there": (
        (
            "Couldn't find '/nowhere/.ollama/id_ed25519'. Generating new private key.\n"
            "Error: could not create directory mkdir /nowhere: no such file or directory"
        ),
        FailureKind.BAD_SETTING,
        "Ollama can't make its folder /nowhere (no such file or directory)",
    ),
}
"""Lines of Ollama 0.33."""

CASES = {
    f"{kind}: {name}": (kind, *case)
    for kind, cases in (
        (EngineKind.VLLM, VLLM | FROM_SOURCE),
        (EngineKind.LLAMACPP, LLAMACPP),
        (EngineKind.OLLAMA, OLLAMA),
    )
    for name, case in cases.items()
}


def failure_of(kind: EngineKind, log: str, memory: int = MEMORY) -> Failure:
    noise = VLLM_NOISE if kind is EngineKind.VLLM else ""
    return classify(ENGINES[kind].signs, (noise + log).splitlines(), "exited with code 1", memory=memory)


@pytest.mark.parametrize(("kind", "log", "failure", "sentence"), CASES.values(), ids=list(CASES))
def test_start_that_would_fail_again_is_told_at_the_first_try(
    kind: EngineKind, log: str, failure: FailureKind, sentence: str
) -> None:
    found = failure_of(kind, log)
    assert found.kind is failure
    assert sentence in found.sentence
    assert found.permanent
    assert found.told == found.lines[0]


@pytest.mark.parametrize(("kind", "log"), [(case[0], case[1]) for case in CASES.values()], ids=list(CASES))
def test_evidence_has_no_frames_of_a_traceback(kind: EngineKind, log: str) -> None:
    shown = "\n".join(failure_of(kind, log).lines[1:])
    assert 'File "' not in shown
    assert "Traceback" not in shown
    assert "^^^" not in shown


@pytest.mark.parametrize(
    ("kind", "log", "failure"),
    [
        (
            EngineKind.VLLM,
            (
                "OSError: We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them in "
                "the cached files."
            ),
            FailureKind.MISSING_MODEL,
        ),
        (
            EngineKind.VLLM,
            worker("ValueError: Available memory on node 0 (2.0/19.09 GiB) on startup is less than desired CPU memory"),
            FailureKind.OUT_OF_MEMORY,
        ),
        (
            EngineKind.VLLM,
            worker("RuntimeError: can't allocate memory: you tried to allocate 1000 bytes. Error code 12"),
            FailureKind.OUT_OF_MEMORY,
        ),
        (EngineKind.LLAMACPP, "1.0.0.0 E x: failed to allocate CPU buffer of size 1000", FailureKind.OUT_OF_MEMORY),
        (EngineKind.VLLM, worker("RuntimeError: something new"), FailureKind.EXITED),
    ],
)
def test_start_that_may_go_well_the_next_time_is_tried_again(kind: EngineKind, log: str, failure: FailureKind) -> None:
    found = failure_of(kind, log)
    assert found.kind is failure
    assert not found.permanent


def test_allocation_is_not_called_too_large_on_a_machine_of_unknown_memory() -> None:
    log = LLAMACPP["context beyond the machine"][0]
    assert not failure_of(EngineKind.LLAMACPP, log, memory=0).permanent


def test_exception_that_nobody_knows_is_told_with_the_exit() -> None:
    found = failure_of(EngineKind.VLLM, worker("RuntimeError: something new"))
    assert found.sentence == "the engine exited with code 1: RuntimeError: something new"
    assert (found.told or "").endswith("RuntimeError: something new")
