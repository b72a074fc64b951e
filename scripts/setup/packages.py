"""Virtual environments and pip, which knows the user's index, proxy and certificates: none of them is named here."""

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from scripts.setup.installation import Installation, ensure
from scripts.setup.steps import SetupError, run, stage
from tests.support.engines import CHECKOUT, cache


def make_venv(home: Path) -> Path:
    """Makes an empty environment with pip and returns its Python. Without ensurepip, this Python's own pip serves it.

    Raises SetupError, with the way out, when this Python can't make one at all (Debian's python3 alone).
    """
    has_ensurepip = find_spec("ensurepip") is not None
    if find_spec("venv") is None or not (has_ensurepip or find_spec("pip")):
        raise SetupError(_no_venv())
    python = home / "bin" / "python"
    if has_ensurepip:
        run([sys.executable, "-m", "venv", home])
    else:
        run([sys.executable, "-m", "venv", "--without-pip", home])
        run([sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "pip"])
    return python


def _no_venv() -> str:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return (
        f"cannot make a virtual environment: {sys.executable} comes without venv or ensurepip; install them"
        f" (on Debian and Ubuntu: sudo apt install python{version}-venv) and run this again."
    )


def python_with_pip() -> Path:
    """This Python where it has pip, else that of an environment made for it: Debian's python3 comes without."""
    if find_spec("pip") is not None:
        return Path(sys.executable)
    home = cache() / "pip"
    python = home / "bin" / "python"
    ensure(Installation(home=home, recipe="pip", fill=_fill_with_pip, trial=[python, "-m", "pip", "--version"]))
    return python


def _fill_with_pip(home: Path) -> None:
    make_venv(home)


def pip_install(python: Path, title: str, *arguments: str | Path) -> None:
    """One stage that installs something by the pip of `python`. Raises SetupError."""
    with stage(title):
        run([python, "-m", "pip", "install", "--disable-pip-version-check", *_wheels_beside_checkout(), *arguments])


def pip_download(python: Path, title: str, destination: Path, *arguments: str | Path) -> None:
    """One stage that downloads packages, without what they depend on, into `destination`. Raises SetupError."""
    command: list[str | Path] = [
        python,
        "-m",
        "pip",
        "download",
        "--disable-pip-version-check",
        "--no-deps",
        "--dest",
        destination,
    ]
    with stage(title):
        run([*command, *_wheels_beside_checkout(), *arguments])


def _wheels_beside_checkout() -> list[str | Path]:
    """Prebuilt wheels may lie beside the checkout: they spare a build of twenty minutes."""
    folder = CHECKOUT.parent / "shared" / "wheels"
    return ["--find-links", folder] if folder.is_dir() else []


def need_space(folder: Path, needed: int, purpose: str) -> None:
    """Raises SetupError when fewer than `needed` bytes are free where `folder` is or will be."""
    there = next(parent for parent in [folder, *folder.parents] if parent.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise SetupError(
            f"cannot make room for {purpose}: it needs {_mb(needed)} MB in {there}, where {_mb(free)} MB are free;"
            f" free {_mb(needed - free)} MB there and run this again."
        )


def _mb(size: int) -> int:
    return -(-size // 1_000_000)
