"""For all tests: those that need a GPU run where there is one."""

from pathlib import Path

import pytest

DRIVER = Path("/proc/driver/nvidia/version")
"""There as long as the kernel has the NVIDIA driver."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked ``gpu`` on a machine without one; it is not skipped, for nothing is missing there."""
    if DRIVER.exists():
        return
    left_out = [item for item in items if item.get_closest_marker("gpu")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
