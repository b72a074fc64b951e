"""By what vLLM's log gives a failure away, the most telling first."""

from typing import Final

from aigw_daemon.supervisor.engines import python_signs
from aigw_daemon.supervisor.failures import FailureKind, always, more_than, more_than_there_is, passing, sign

_NO_COPY: Final = "and this machine has no copy of the model"

_SETTINGS: Final = (
    sign(
        r"error: (unrecognized arguments: .*|argument .*)",
        FailureKind.BAD_FLAG,
        "vLLM doesn't take its arguments ({0}): change args in the profile",
    ),
    sign(
        r"User-specified max_model_len \((\d+)\) is greater than the derived max_model_len \(\D*(\d+)",
        FailureKind.BAD_FLAG,
        "--max-model-len {0} is more than the model's own {1}: lower it in args",
    ),
    sign(
        r"total number of attention heads \((\d+)\) must be divisible by tensor parallel size \((\d+)\)",
        FailureKind.BAD_SETTING,
        "the model's {0} attention heads can't be shared by {1} GPUs: change gpus to a divisor",
    ),
    sign(
        r"\[Errno 98\] Address already in use",
        FailureKind.PORT_TAKEN,
        "its port is taken: free it, or give the backend another port",
    ),
)

_HUB: Final = (
    sign(
        r"You are trying to access a gated repo|Cannot access gated repo for url (?:\S+/)?|is a gated repository",
        FailureKind.GATED_MODEL,
        "the model is gated: ask for access on its page at the Hugging Face hub, then give the backend "
        "env: {{HF_TOKEN: '${{HF_TOKEN}}'}}",
    ),
    sign(
        r"HFValidationError: Repo id .*: '([^']+)'",
        FailureKind.MISSING_MODEL,
        "the model {0} is neither a folder nor a model of the Hugging Face hub: check model in the profile",
    ),
    sign(
        r"OSError: (\S+) is not a local folder and is not a valid model identifier",
        FailureKind.MISSING_MODEL,
        "the Hugging Face hub has no model {0}: check model in the profile; a private one needs "
        "env: {{HF_TOKEN: '${{HF_TOKEN}}'}}",
    ),
    sign(
        r"Repository Not Found for url: \w+://[^/]+/(?:api/models/)?([^/\s]+/[^/\s]+)",
        FailureKind.MISSING_MODEL,
        "the Hugging Face hub has no model {0}: check model in the profile; a private one needs "
        "env: {{HF_TOKEN: '${{HF_TOKEN}}'}}",
    ),
    sign(
        r"outgoing traffic has been disabled|offline mode is enabled",
        FailureKind.MISSING_MODEL,
        f"HF_HUB_OFFLINE keeps vLLM from the Hugging Face hub, {_NO_COPY}: download it first, or unset HF_HUB_OFFLINE",
    ),
    sign(
        r"We couldn't connect to '([^']+)' to load the files",
        FailureKind.MISSING_MODEL,
        f"vLLM can't reach {{0}}, {_NO_COPY}: check the network and the proxy settings",
        passing,
    ),
    sign(
        r"An error happened while trying to locate the files on the Hub",
        FailureKind.MISSING_MODEL,
        f"vLLM can't reach the Hugging Face hub, {_NO_COPY}: check the network and the proxy settings",
        passing,
    ),
)

_MODEL: Final = (
    sign(
        r"Invalid repository ID or local directory specified: '([/.~][^']*)'",
        FailureKind.MODEL_UNREADABLE,
        "the folder {0} has no config.json: it is no model, or not all of it is there; download it again",
    ),
    sign(
        r"Invalid repository ID or local directory specified: '([^']+)'",
        FailureKind.MISSING_MODEL,
        "{0} is no model that vLLM can serve: check model in the profile",
    ),
    sign(
        r"the config file at '([^']+)' is not a valid JSON file",
        FailureKind.MODEL_UNREADABLE,
        "the file {0} is broken: download the model again",
    ),
    sign(
        r"(\S+) does not appear to have a file named (\S+?)\.? ",
        FailureKind.MODEL_UNREADABLE,
        "the model {0} has no file {1}: it is no model for vLLM, or not all of it is there; download it again",
    ),
    sign(
        r"SafetensorError: (.+)",
        FailureKind.MODEL_UNREADABLE,
        "the model's weights are cut off or broken ({0}): download it again",
    ),
    sign(
        r"PytorchStreamReader failed (.+)|UnpicklingError: (.+)",
        FailureKind.MODEL_UNREADABLE,
        "the model's weights are cut off or broken ({0}): download it again",
    ),
    sign(
        r"Cannot find any model weights with `([^`]+)`",
        FailureKind.MODEL_UNREADABLE,
        "the model {0} has no weights: not all of it is there; download it again",
    ),
    sign(
        r"Couldn't instantiate the backend tokenizer|Can't load tokenizer for '([^']+)'",
        FailureKind.MODEL_UNREADABLE,
        "the model has no tokenizer: not all of it is there; download it again, or name one with --tokenizer in args",
    ),
    sign(
        r"model type `([^`]+)` but Transformers does not recognize|Model architectures \[([^\]]+)\] are not supported",
        FailureKind.MODEL_UNREADABLE,
        "this vLLM doesn't know the model's architecture ({0}): use a newer vLLM, or another model",
    ),
)

_MEMORY: Final = (
    sign(
        r"(?:Free|Available) memory on \w+ \S+ \(([\d.]+)/([\d.]+) GiB\) on startup is less than",
        FailureKind.OUT_OF_MEMORY,
        "only {0} of {1} GiB are free, less than it was to take: lower memory in the profile (on a CPU "
        "--gpu-memory-utilization in args), or stop what else runs there",
    ),
    sign(
        r"\([\d.]+/([\d.]+) GiB\) on kv cache allocation is less than requested memory for kv \(([\d.]+) GiB\)",
        FailureKind.OUT_OF_MEMORY,
        "the cache was to take {1} GiB of {0} GiB of memory: lower VLLM_CPU_KVCACHE_SPACE in env, or "
        "--kv-cache-memory-bytes in args",
        more_than(2, 1),
    ),
    sign(
        r"on kv cache allocation is less than requested memory for kv \(-[\d.]+/([\d.]+) GiB\)",
        FailureKind.OUT_OF_MEMORY,
        "the model alone takes more than the {0} GiB that it may use: raise --gpu-memory-utilization in args",
        always,
    ),
    sign(
        r"([\d.]+) GiB KV cache is needed, which is larger than the available KV cache memory \(([\d.]+) GiB\)",
        FailureKind.OUT_OF_MEMORY,
        "one request of full length needs {0} GiB of cache, and {1} are left beside the weights: raise memory, or "
        "lower --max-model-len in args",
        always,
    ),
    sign(
        r"No available memory for the cache blocks",
        FailureKind.OUT_OF_MEMORY,
        "the weights leave no memory for the cache: raise memory, use more GPUs, or take a smaller model",
        always,
    ),
    sign(
        r"(?:CUDA|HIP) out of memory|OutOfMemoryError|CUDA error: out of memory",
        FailureKind.OUT_OF_MEMORY,
        "the GPU's memory is full: lower memory or --max-model-len, or stop what else runs there",
    ),
    sign(
        r"can't allocate memory: you tried to allocate (\d+) bytes",
        FailureKind.OUT_OF_MEMORY,
        "the machine's memory is too small, {0:GiB} at once were refused: lower --max-model-len in args, or take a "
        "smaller model",
        more_than_there_is(1),
    ),
    sign(
        r"Cannot allocate memory|std::bad_alloc|MemoryError",
        FailureKind.OUT_OF_MEMORY,
        "the machine's memory is full: lower --max-model-len in args, take a smaller model, or stop what else runs",
    ),
)

SIGNS: Final = (
    *_SETTINGS,
    *_HUB,
    *_MODEL,
    *_MEMORY,
    *python_signs.SIGNS,
    sign(
        r"^\s+Value error, (.+)",
        FailureKind.BAD_FLAG,
        "vLLM refuses its settings ({0}): change model or args in the profile",
    ),
)
