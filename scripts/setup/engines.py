"""`scripts/engines`: installs the real engines and models that tests run, or says where they are."""

import argparse
import sys
from collections.abc import Callable, Sequence

from scripts.setup import llamacpp, small_model, vllm, vllm_proof
from scripts.setup.steps import say, told
from tests.support.engines import PATHS, llama_server, smollm2, tiny_llama, vllm_python


def install_model() -> None:
    small_model.install()
    say(f"small chat model: {smollm2()}")


def install_llamacpp() -> None:
    llamacpp.install()
    say(f"llama-server: {llama_server()}")


def install_vllm() -> None:
    vllm.install()
    vllm_proof.make_model()
    vllm_proof.prove()
    say(f"vLLM's Python: {vllm_python()}\ntiny model for vLLM: {tiny_llama()}")


WHAT: dict[str, tuple[Callable[[], None], ...]] = {
    "model": (install_model,),
    "llamacpp": (install_model, install_llamacpp),
    "vllm": (install_vllm,),
    "all": (install_model, install_llamacpp, install_vllm),
}


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/engines", description=__doc__)
    parser.add_argument("what", nargs="?", choices=WHAT, default="all", help="what to install (default: all)")
    parser.add_argument("--path", choices=PATHS, help="print where this is, and install nothing")
    options = parser.parse_args(argv)
    if options.path:
        print(PATHS[options.path]())
        return 0
    for install in WHAT[options.what]:
        install()
    return 0


if __name__ == "__main__":
    sys.exit(told(lambda: main(sys.argv[1:])))
