"""The checkout's own `.venv`: what a lock file pins, and aigw itself as an editable install.

`python -m scripts.setup.checkout operator|developer`. The developer's lock holds all that the operator's does, so a
developer's `.venv` serves the operator too. The stamp is finished last, and a `.venv` with an unfinished one is made
anew; one that somebody else made is brought up to date, not thrown away.
"""

import hashlib
import shutil
import sys
import tomllib
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from scripts.setup.packages import make_venv, need_space, pip_install
from scripts.setup.steps import SetupError, is_stamped, locked, no_space, remove, say, told, works, write_last
from tests.support.engines import CHECKOUT

VENV = CHECKOUT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "aigw-lock"
MAKING = "unfinished\n"
"""What the stamp says meanwhile. A `.venv` that still says so was interrupted: it is torn."""
FULL = 20_000_000
"""Bytes: a disk with less is full, whatever words the failing program found for it."""
SPACE = {"operator": 700_000_000, "developer": 1_200_000_000}
"""Bytes: the environment, what pip unpacks meanwhile, and for the operator the starter model."""


class Kind(StrEnum):
    OPERATOR = "operator"
    DEVELOPER = "developer"

    @property
    def lock(self) -> Path:
        return CHECKOUT / {"operator": "requirements.lock", "developer": "requirements-dev.lock"}[self]

    @property
    def trial(self) -> Sequence[str | Path]:
        """What must run: aigw's command, and for developers pytest."""
        imported = {"operator": "aigw_cli, aigw_daemon, typer", "developer": "aigw_cli, aigw_daemon, pytest"}
        return [PYTHON, "-c", f"import {imported[self]}"]

    @property
    def stamp_text(self) -> str:
        """Changes with the lock, with what pyproject.toml says of the package, and with the place of the checkout."""
        project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
        installed = [project["build-system"], project["project"], project["tool"]["hatch"]]
        digest = hashlib.sha256(self.lock.read_bytes() + repr(installed).encode()).hexdigest()
        return f"{self} {digest} {CHECKOUT}\n"


def is_ready(kind: Kind) -> bool:
    """Whether `.venv` is there, up to date with the lock, and runs."""
    serving = [Kind.DEVELOPER] if kind is Kind.DEVELOPER else list(Kind)
    return any(is_stamped(STAMP, each.stamp_text) for each in serving) and works(kind.trial)


def ensure(kind: Kind) -> None:
    """Makes `.venv`, or brings it up to date. Raises SetupError; then it is gone, or as it was before."""
    with locked(VENV):
        if is_ready(kind):
            return
        need_space(VENV, SPACE[kind], "aigw's environment")
        if _is_usable():
            _update(kind)
        else:
            _make(kind)
        write_last(STAMP, kind.stamp_text)


def _is_usable() -> bool:
    """Whether a `.venv` is there that can be brought up to date: whole, with pip, of a Python that aigw runs on."""
    return not is_stamped(STAMP, MAKING) and works(
        [PYTHON, "-c", "import pip, sys; sys.exit(sys.version_info < (3, 11))"]
    )


def _make(kind: Kind) -> None:
    if VENV.exists():
        say(".venv is torn or of another Python: making it anew")
    remove(VENV)
    try:
        VENV.mkdir()
        STAMP.write_text(MAKING)
        make_venv(VENV)
        _fill(kind)
    except BaseException as error:
        full = shutil.disk_usage(CHECKOUT).free < FULL
        remove(VENV)
        if full and isinstance(error, SetupError):
            raise SetupError(no_space(str(CHECKOUT))) from error
        raise


def _update(kind: Kind) -> None:
    """pip undoes what it can't finish, so after a failure the old stamp holds again; after a kill there is none."""
    before = STAMP.read_text() if STAMP.exists() else None
    STAMP.write_text(MAKING)
    try:
        _fill(kind)
    except BaseException:
        if before is None:
            STAMP.unlink()
        else:
            write_last(STAMP, before)
        raise


def _fill(kind: Kind) -> None:
    lock = kind.lock.relative_to(CHECKOUT)
    pip_install(PYTHON, f"install what {lock} pins", "--require-hashes", "--requirement", kind.lock)
    pip_install(PYTHON, "install aigw", "--no-deps", "--no-build-isolation", "--editable", CHECKOUT)
    if not works(kind.trial):
        raise SetupError(f"cannot use {VENV}: all was installed, but this fails:\n  {kind.trial}")


def main(argv: Sequence[str]) -> int:
    ensure(Kind(argv[0]))
    return 0


if __name__ == "__main__":
    sys.exit(told(lambda: main(sys.argv[1:])))
