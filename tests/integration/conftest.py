"""A whole aigw for each test that wants one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.aigw import Aigw


@pytest.fixture
def aigw(tmp_path: Path) -> Iterator[Aigw]:
    """An aigw that nothing runs in yet."""
    whole = Aigw(tmp_path)
    yield whole
    whole.end()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aigw]:
    """An aigw with the small model ready, shared by the tests of a module that change nothing."""
    whole = Aigw(tmp_path_factory.mktemp("aigw"))
    try:
        whole.up()
        yield whole
    finally:
        whole.end()
