"""Installs vllm-router for the benchmark, in an environment of its own under the user's cache folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from scripts.bench.machine import BenchError

VERSION = "0.1.17"
_INSTALL_SECONDS = 300


def vllm_router_program() -> Path:
    """The program, installed at the first call. Raises BenchError when it can't be."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "aigw" / "bench" / f"vllm-router-{VERSION}"
    program = folder / "bin" / "vllm-router"
    # Written last: a torn installation has none and is made anew.
    whole = folder / "whole"
    if not whole.exists():
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", f"vllm-router=={VERSION}"])
        whole.touch()
    return program


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=True)
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"vllm-router could not be installed within {_INSTALL_SECONDS} s") from error
    except subprocess.CalledProcessError as error:
        raise BenchError(f"vllm-router could not be installed: {error.stderr.strip()[-300:]}") from error
