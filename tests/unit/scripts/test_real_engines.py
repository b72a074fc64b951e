"""What `scripts/engines llamacpp` installed is real: the binary runs and the model is the one that was published."""

import subprocess

from scripts.setup.small_model import SHA256, SIZE, sha256
from tests.support.engines import llama_server, node, node_clients, redis_server, smollm2


def version(program: object, *arguments: str) -> str:
    done = subprocess.run([str(program), *arguments], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout + done.stderr


def test_llama_server_runs() -> None:
    assert "version" in version(llama_server(), "--version")


def test_the_small_model_is_the_published_one() -> None:
    assert smollm2().stat().st_size == SIZE
    assert sha256(smollm2()) == SHA256


def test_redis_runs() -> None:
    assert version(redis_server(), "--version").startswith("Redis server")


def test_the_node_client_can_be_loaded_from_commonjs_and_as_a_module() -> None:
    folder = node_clients()
    load = "const {default: OpenAI} = await import('openai'); console.log(typeof OpenAI)"
    done = subprocess.run(
        [node(), "--input-type=module", "-e", load], cwd=folder, capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout == "function\n"
    assert version(node(), "-e", f"console.log(typeof require('{folder}/node_modules/openai').OpenAI)") == "function\n"
