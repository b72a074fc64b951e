"""Everything changes at once: states, limits and faults under a crowd. Each request ends once, and nothing is left."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest

from aigw_daemon.gateway import breaker, reporter
from aigw_daemon.link.messages import BackendView, GatewayView, Records, RequestRecord, RouteView, Snapshot, TargetView
from aigw_daemon.words import State
from tests.support.fake_engine import (
    DONE,
    FINISH,
    HELLO,
    Behaviour,
    EngineRequest,
    FakeEngine,
    fake_engine,
    hangs,
    says,
    says_and_hangs_up,
    stream,
    whole,
)
from tests.support.gateway import backend, snapshot
from tests.support.local_gateway import LocalGateway, local_gateway
from tests.support.wait import eventually

NAMES = ("one", "two", "three")
CLIENTS = 24
ROUNDS = 40
STATES = (*[State.READY] * 3, State.DEGRADED, State.STARTING, State.STOPPED, State.DRAINING, State.FAILED)
TOO_LONG = whole(b'{"error":{"message":"no","type":"exceed_context_size_error"}}', 400)
LINES = (
    (),
    (),
    ("x-aigw-fallback: off",),
    ("x-aigw-backend: two",),
    ("x-aigw-priority: high",),
    ("x-aigw-timeout: 200ms",),
)
STATUSES = {200, 400, 404, 429, 500, 503, 504}


@pytest.fixture
async def engines() -> AsyncIterator[dict[str, FakeEngine]]:
    async with AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(fake_engine(says(whole()))) for name in NAMES}


async def answers(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
    writer.write(stream(HELLO, FINISH, DONE) if request.json.get("stream") else whole())


def faulty(dice: random.Random) -> Behaviour:
    """An engine that mostly answers, and otherwise does anything."""
    faults = (
        hangs,
        says_and_hangs_up(whole()[:-5]),
        says(whole(b'{"error":"boom"}', 500)),
        says(whole(b'{"error":"busy"}', 503)),
        says(whole(b'{"error":"slow"}', 429, "retry-after: 1")),
        says(whole(b'{"error":"no"}', 400)),
        says(TOO_LONG),
        says(stream(HELLO)),
        says(stream(DONE)),
    )

    async def act(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(dice.random() * 0.02)
        await (answers if dice.random() < 0.6 else dice.choice(faults))(request, writer)

    return act


def any_snapshot(dice: random.Random, engines: dict[str, FakeEngine]) -> Snapshot:
    """Some of the backends, in any states, and routes over them."""
    views = [any_backend(dice, name, engine.port) for name, engine in engines.items() if dice.random() < 0.9]
    return snapshot(
        *views,
        routes=[any_route(dice, "m"), any_route(dice, "n")],
        gateway=GatewayView(request_timeout=1.0, queue_timeout=0.3),
    )


def any_backend(dice: random.Random, name: str, port: int) -> BackendView:
    return msgspec.structs.replace(
        backend(name, port, models=["x"], state=dice.choice(STATES)),
        max_concurrency=dice.choice([None, 1, 2, 12]),
        max_queue=dice.choice([0, 2, 20]),
        cold_timeout=dice.choice([0.05, 0.3]),
        gap_timeout=dice.choice([None, 0.2]),
    )


def any_route(dice: random.Random, name: str) -> RouteView:
    targets = [TargetView(each, "x") for each in dice.sample(NAMES, 3)]
    changes: dict[str, Any] = {
        "cold": dice.choice(["wait", "bridge", "reject"]),
        "overflow": dice.choice(["queue", "spill"]),
        "balance": dice.choice(["order", "least_busy", "weighted"]),
        "first_token_timeout": dice.choice([None, 0.1]),
        "request_timeout": dice.choice([None, 0.5]),
        "on_context_overflow": tuple(targets[2:]) if dice.random() < 0.5 else (),
    }
    return msgspec.structs.replace(RouteView(name, tuple(targets[:2])), **changes)


@pytest.mark.parametrize("seed", range(3))
async def test_each_request_ends_once_whatever_changes_meanwhile(
    seed: int, engines: dict[str, FakeEngine], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(breaker, "OPEN_SECONDS", 0.1)
    # A fast machine makes more requests in a second than records are kept of.
    monkeypatch.setattr(reporter, "RECORDS_PER_SECOND", 1_000_000)
    dice = random.Random(seed)
    for engine in engines.values():
        engine.behaviour = faulty(dice)
    async with local_gateway(any_snapshot(dice, engines)) as gateway:
        asked = await crowd(gateway, dice, engines)
        await eventually(lambda: all(is_empty(gateway, name) for name in NAMES), what="all slots and places back")
        records = await eventually(lambda: all_records(gateway, asked), what="a record of each request")
    assert "failed" not in caplog.text
    assert not [record for record in records if "internal_error" in (record.error or "")]
    assert {record.status for record in records} <= STATUSES | {499}
    # An attempt may end before its request has left; no request leaves that is not counted as one.
    assert sum(record.attempts for record in records) >= sum(len(engine.requests) for engine in engines.values())


def is_empty(gateway: LocalGateway, name: str) -> bool:
    """Whether nobody is in a backend, or waits for it."""
    lane = gateway.lane(name)
    return (lane.in_flight, lane.waiting) == (0, 0)


def all_records(gateway: LocalGateway, count: int) -> list[RequestRecord]:
    """One for each request, once they are all there."""
    found = [record for batch in gateway.said(Records) for record in batch.records]
    return found if len(found) == count else []


async def crowd(gateway: LocalGateway, dice: random.Random, engines: dict[str, FakeEngine]) -> int:
    """Clients that ask one thing after the other while everything changes; how often they asked."""
    over = asyncio.Event()
    asked = 0

    async def asks() -> None:
        nonlocal asked
        while not over.is_set():
            asked += 1
            body = msgspec.json.encode({"model": dice.choice("mn"), "messages": [], "stream": dice.random() < 0.5})
            async with gateway.asking(body, *dice.choice(LINES)) as asking:
                if dice.random() < 0.2:
                    await asyncio.sleep(dice.random() * 0.1)
                else:
                    status, headers, _ = await asking.answer(15.0)
                    assert status in STATUSES
                    assert b"x-aigw-attempts" in headers

    async with asyncio.TaskGroup() as tasks:
        for _ in range(CLIENTS):
            tasks.create_task(asks())
        for _ in range(ROUNDS):
            await asyncio.sleep(0.05)
            gateway.apply(any_snapshot(dice, engines))
        over.set()
    return asked
