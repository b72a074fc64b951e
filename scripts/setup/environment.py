"""Python environments that are made once, reused while they work, and made anew when they are torn.

A stamp that names the recipe is written last: no stamp, another recipe or a failed trial run mean "make it anew".
"""

import shutil
import sys
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from scripts.setup.steps import SetupError, is_stamped, locked, remove, run, say, stage, works, write_last
from tests.support.engines import CHECKOUT, python_tag

MINIMUM_PYTHON = (3, 11)


@dataclass(frozen=True)
class Environment:
    """An environment at `home`: what it is made of (`recipe`), how (`fill`), and a command that shows that it works."""

    home: Path
    recipe: str
    fill: Callable[[Path], None]
    trial: Sequence[str | Path]

    @property
    def stamp(self) -> Path:
        return self.home / "aigw-recipe"

    @property
    def stamp_text(self) -> str:
        return f"{python_tag()}\n{self.recipe}\n"


def ensure(environment: Environment) -> None:
    """Makes the environment unless it is there and works. Raises SetupError; nothing half made keeps a stamp."""
    with locked(environment.home):
        if is_stamped(environment.stamp, environment.stamp_text):
            if works(environment.trial):
                return
            say(f"{environment.home.name}: the environment is there but doesn't run: making it anew")
        remove(environment.home)
        make_venv(environment.home)
        environment.fill(environment.home / "bin" / "python")
        if not works(environment.trial):
            raise SetupError(f"cannot use {environment.home}: it was made, but this fails: {_shown(environment.trial)}")
        write_last(environment.stamp, environment.stamp_text)


def _shown(argv: Sequence[str | Path]) -> str:
    return " ".join(str(part) for part in argv)


def make_venv(home: Path) -> None:
    """Makes an empty environment with pip. Where Debian left out ensurepip, this Python's own pip serves it.

    Raises SetupError, with the way out, when this Python can't make one at all.
    """
    if find_spec("venv") is None:
        raise SetupError(_no_venv())
    if find_spec("ensurepip") is not None and _has_bundled_pip():
        run([sys.executable, "-m", "venv", home])
    elif find_spec("pip") is not None:
        run([sys.executable, "-m", "venv", "--without-pip", home])
        run([sys.executable, "-m", "pip", "--python", home / "bin" / "python", "install", "--quiet", "pip"])
    else:
        raise SetupError(_no_venv())


def _has_bundled_pip() -> bool:
    """Debian's python3 has an ensurepip package without the wheels that it installs, until python3-venv is there."""
    wheels = Path(sysconfig.get_path("stdlib")) / "ensurepip" / "_bundled"
    return any(wheels.glob("pip-*.whl")) or any(Path("/usr/share/python-wheels").glob("pip-*.whl"))


def _no_venv() -> str:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return (
        f"cannot make a virtual environment: {sys.executable} comes without venv or ensurepip."
        f" Install them (on Debian and Ubuntu: sudo apt install python{version}-venv) and run this again."
    )


def pip_install(python: Path, title: str, *arguments: str | Path) -> None:
    """One stage that installs something into the environment of `python`."""
    with stage(title):
        run([python, "-m", "pip", "install", "--disable-pip-version-check", *_wheels_beside_checkout(), *arguments])


def pip_download(python: Path, title: str, destination: Path, *arguments: str | Path) -> None:
    """One stage that downloads packages, without what they depend on, into `destination`."""
    with stage(title):
        command = [python, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--dest", destination]
        run([*command, *_wheels_beside_checkout(), *arguments])


def _wheels_beside_checkout() -> list[str | Path]:
    """Prebuilt wheels may lie beside the checkout: they spare a build of twenty minutes."""
    folder = CHECKOUT.parent / "shared" / "wheels"
    return ["--find-links", folder] if folder.is_dir() else []


def free_bytes(folder: Path) -> int:
    """Free space where `folder` is or will be."""
    there = next(parent for parent in [folder, *folder.parents] if parent.exists())
    return shutil.disk_usage(there).free


def need_space(folder: Path, needed: int, purpose: str) -> None:
    """Raises SetupError when fewer than `needed` bytes are free where `folder` is or will be."""
    free = free_bytes(folder)
    if free < needed:
        raise SetupError(
            f"cannot make room for {purpose}: it needs {_mb(needed)} MB in {folder}, and {_mb(free)} MB are free."
            f" Free {_mb(needed - free)} MB there and run this again."
        )


def _mb(size: int) -> int:
    return -(-size // 1_000_000)
