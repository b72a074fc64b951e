"""For all tests: those that need a GPU, or a language's own program, run where there is one."""

import shutil
from pathlib import Path

import pytest

DRIVER = Path("/proc/driver/nvidia/version")
"""There as long as the kernel has the NVIDIA driver."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what this machine has nothing for; it is not skipped, for nothing is missing there."""
    left_out = [item for item in items if not _fits(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if _fits(item)]


def _fits(item: pytest.Item) -> bool:
    """Whether this machine has the GPU or the program that the test is marked with."""
    program = item.get_closest_marker("program")
    if program is not None and shutil.which(program.args[0]) is None:
        return False
    return item.get_closest_marker("gpu") is None or DRIVER.exists()
