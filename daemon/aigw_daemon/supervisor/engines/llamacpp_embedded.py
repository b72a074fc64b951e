"""The embedded llama.cpp: a process that runs llama.cpp's own HTTP server through the Python package xllamacpp.

It takes a small part of llama-server's flags, under the same names, and the API key from ``LLAMA_API_KEY``. It
imports nothing of the daemon: what it needs is llama.cpp, and a signal ends it as it ends any process.
"""

import argparse
import os
import signal
import sys

import xllamacpp

LOAD_FAILED = 1
"""The exit code when the model can't be loaded or the port can't be bound; llama.cpp's log says which."""


def main() -> int:
    """Serve until a signal comes."""
    # A daemon that was started in the background of a shell may have been told to ignore it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        # Held as long as we live: it serves from threads of its own.
        server = xllamacpp.Server(parameters(arguments().parse_args()))
    except RuntimeError as error:
        sys.stderr.write(f"error: llama.cpp did not start: {error}\n")
        return LOAD_FAILED
    sys.stderr.write(f"llama.cpp is up at {server.listening_address}\n")
    while True:
        signal.pause()


def arguments() -> argparse.ArgumentParser:
    """The flags, named as llama-server names them."""
    parser = argparse.ArgumentParser(prog="llamacpp_embedded", allow_abbrev=False)
    parser.add_argument("--model", required=True)
    parser.add_argument("--alias")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ctx-size", type=int)
    parser.add_argument("--parallel", type=int)
    parser.add_argument("--gpu-layers", type=int)
    parser.add_argument("--embeddings", action="store_true")
    parser.add_argument("--rerank", action="store_true")
    parser.add_argument("--metrics", action="store_true")
    parser.add_argument("--slots", action="store_true")
    parser.add_argument("--no-webui", action="store_true")
    return parser


def parameters(options: argparse.Namespace) -> xllamacpp.CommonParams:
    """llama.cpp's own settings."""
    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.hostnames = [options.host]
    params.port = options.port
    params.endpoint_metrics = options.metrics
    params.endpoint_slots = options.slots
    params.ui = not options.no_webui
    params.embedding = options.embeddings or options.rerank
    if options.alias:
        params.model_alias = {options.alias}
    if options.ctx_size:
        params.n_ctx = options.ctx_size
    if options.parallel:
        params.n_parallel = options.parallel
    if options.gpu_layers is not None:
        params.n_gpu_layers = options.gpu_layers
    if options.rerank:
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    # Taken out of the environment of whatever llama.cpp might start.
    key = os.environ.pop("LLAMA_API_KEY", "")
    if key:
        params.api_keys = [key]
    return params


if __name__ == "__main__":
    sys.exit(main())
