"""The scripts find a Python that aigw runs on, among whatever PATH holds."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkout_copy import write_script
from tests.support.engines import CHECKOUT

CAN_ALL = f'exec "{sys.executable}" "$@"'
CANNOT_MAKE_VENV = f'case "$2" in *ensurepip*) exit 1 ;; *) exec "{sys.executable}" "$@" ;; esac'
EMPTY_SHIM = 'echo "pyenv: command not found" >&2; exit 127'


@pytest.mark.parametrize(
    ("programs", "chosen"),
    [
        ({"python3.13": CAN_ALL, "python3.12": CAN_ALL, "python3": CAN_ALL}, "python3.13"),
        ({"python3.13": EMPTY_SHIM, "python3.11": CAN_ALL}, "python3.11"),
        ({"python3": CAN_ALL}, "python3"),
        ({"python3.13": CANNOT_MAKE_VENV, "python3.11": CAN_ALL}, "python3.11"),
        ({"python3": CANNOT_MAKE_VENV}, "python3"),
    ],
)
def test_the_newest_that_can_do_all_is_chosen(tmp_path: Path, programs: dict[str, str], chosen: str) -> None:
    for name, text in programs.items():
        write_script(tmp_path / name, text)
    shell = shutil.which("sh")
    assert shell is not None
    done = subprocess.run(
        [shell, "-c", ". scripts/lib.sh; find_python"],
        cwd=CHECKOUT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )

    assert done.stdout == f"{tmp_path / chosen}\n"
