"""The real vLLM on the CPU as a backend of a profile: tiny, offline, and quick as far as it can be."""

import textwrap

from tests.support.engines import tiny_llama, vllm_python

SERVED = "tiny-llama"
CONTEXT = 1024
READY_SECONDS = 300.0
"""It takes 45 to 70 s on two idle cores; a busy machine may take several times that."""


def vllm_section(name: str = "vllm", more: str = "") -> str:
    """A vLLM backend with the tiny model, as an entry of ``backends``; ``more`` is further keys, one a line."""
    text = f"""\
        {name}:
          engine: vllm
          command: [{vllm_python()}, -m, vllm.entrypoints.openai.api_server]
          model: {tiny_llama()}
          served_name: {SERVED}
          env: {{HF_HUB_OFFLINE: "1", VLLM_CPU_KVCACHE_SPACE: "1", VLLM_CPU_OMP_THREADS_BIND: nobind}}
          args: [--enforce-eager, --max-model-len, {CONTEXT}]
    """
    return textwrap.indent(textwrap.dedent(text) + textwrap.indent(more, "  "), "  ")
