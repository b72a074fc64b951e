"""A whole aigw for each test that wants one."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.aigw import Aigw
from tests.support.fake_engine import FakeEngine, fake_engine, says, whole
from tests.support.fast_upstream import FastUpstream, fast_upstream
from tests.support.living import Living, fast_profile

RUNNERS = ("embedded", "binary")
"""The two ways in which llama.cpp comes."""


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


@pytest.fixture(scope="module", params=RUNNERS)
def either(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aigw]:
    """Like ``running``, once with each way that llama.cpp comes."""
    whole = Aigw(tmp_path_factory.mktemp(request.param))
    try:
        whole.up(runner=request.param)
        yield whole
    finally:
        whole.end()


@pytest.fixture(scope="module")
def engine(either: Aigw) -> Iterator[httpx.Client]:
    """The engine behind ``either``, asked directly."""
    with either.engine() as client:
        yield client


@pytest.fixture
async def upstream() -> AsyncIterator[FastUpstream]:
    """An upstream that answers at once."""
    async with fast_upstream() as found:
        yield found


@pytest.fixture
async def living(aigw: Aigw, upstream: FastUpstream) -> AsyncIterator[Living]:
    """An aigw in front of that upstream, ready; its daemon is the test's own child."""
    whole = Living(aigw)
    try:
        await asyncio.to_thread(whole.start)
        await asyncio.to_thread(whole.up, aigw.write_profile(fast_profile(aigw.port, upstream.port)))
        yield whole
    finally:
        await asyncio.to_thread(whole.end)


@pytest.fixture
async def first() -> AsyncIterator[FakeEngine]:
    """A scripted engine that answers well until it is told otherwise."""
    async with fake_engine(says(whole())) as running:
        yield running


@pytest.fixture
async def second() -> AsyncIterator[FakeEngine]:
    """Another one."""
    async with fake_engine(says(whole())) as running:
        yield running
