"""A small copy of the checkout in which the scripts can run: their own `.venv`, their own cache, nobody else's."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.engines import CHECKOUT

RUN_SECONDS = 300
"""A first run installs everything: half a minute, and more on a busy machine or a slow line."""
COPIED = (
    "requirements.lock",
    "requirements-dev.lock",
    "pyproject.toml",
    "README.md",
    "cli",
    "daemon",
    "scripts",
    "profiles",
    "tests/support",
)


@dataclass(frozen=True)
class CheckoutCopy:
    """The copy at `root`; `home` is the HOME of what runs in it."""

    root: Path
    home: Path

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs `scripts/NAME` in the copy to its end. `environment` is added to a clean one."""
        return subprocess.run(
            [str(self.root / "scripts" / script), *arguments],
            env=self.environment() | environment,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )

    def environment(self) -> dict[str, str]:
        """What a login gives, with the Python of the tests, and nothing of the caller's pip or XDG settings."""
        return {"PATH": os.environ["PATH"], "HOME": str(self.home), "PYTHON": sys.executable, "LC_ALL": "C.UTF-8"}

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    def pretend_ready(self, aigw: str) -> None:
        """Gives the copy a finished `.venv`: the Python of the tests, and `aigw` (a shell script's text) as the CLI."""
        bin_folder = self.venv / "bin"
        bin_folder.mkdir(parents=True)
        write_script(bin_folder / "python", f'exec "{sys.executable}" "$@"')
        write_script(bin_folder / "aigw", aigw)
        program = "from scripts.setup.checkout import Kind, STAMP; STAMP.write_text(Kind.OPERATOR.stamp_text)"
        subprocess.run([sys.executable, "-c", program], cwd=self.root, check=True, timeout=30)


def copy_checkout(folder: Path) -> CheckoutCopy:
    """Copies what the scripts need from this checkout into `folder`."""
    root, home = folder / "checkout", folder / "home"
    home.mkdir(parents=True)
    for name in COPIED:
        source, target = CHECKOUT / name, root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "bench"))
        else:
            shutil.copy(source, target)
    return CheckoutCopy(root, home)


def write_script(path: Path, text: str) -> Path:
    """An executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path
