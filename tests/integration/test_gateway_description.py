"""The OpenAPI description is true of a real worker: what it allows is taken, what it forbids harms nobody."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from aigw_daemon.gateway.assembly import HOT_PATHS
from tests.support.answering import answers_anything
from tests.support.description import description
from tests.support.fake_engine import fake_engine
from tests.support.gateway import GatewayProcess, backend, gateway_process, route, snapshot

pytestmark = pytest.mark.asyncio(loop_scope="module")

DESCRIPTION = description()
OPERATIONS = [(path, method) for path, methods in DESCRIPTION["paths"].items() for method in methods]

EXAMPLES = 25
"""Requests of each kind to each operation: enough for every field and header, few enough for a suite."""

UNWRITABLE = ("invalid_header", "got `float` - at `$.n`")
"""Refusals that no schema can say: a time of 0, a backend that isn't there, and 2.0, to it a whole number."""

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway() -> AsyncIterator[GatewayProcess]:
    """A worker whose one engine answers whatever it is asked; every name is a model."""
    async with fake_engine(answers_anything) as engine:
        any_name = route("*", ("local", "m"), pattern=True)
        async with gateway_process(snapshot(backend("local", engine.port), routes=[any_name])) as running:
            yield running


def drive(url: str, path: str, method: str, mode: GenerationMode) -> set[int]:
    """Send generated requests to an operation, check each answer; the statuses that there were."""
    operation = schemathesis.openapi.from_dict(DESCRIPTION)[path][method]
    statuses: set[int] = set()

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def each(case: Case[Any]) -> None:
        answer = case.call_and_validate(base_url=url, checks=CHECKS, timeout=10)
        statuses.add(answer.status_code)
        if mode is GenerationMode.POSITIVE and answer.status_code == 400:
            assert any(reason in answer.text for reason in UNWRITABLE), answer.text

    each()
    return statuses


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
async def test_what_the_description_allows_is_answered_as_it_says(
    gateway: GatewayProcess, path: str, method: str
) -> None:
    statuses = await asyncio.to_thread(drive, gateway.url, path, method, GenerationMode.POSITIVE)
    assert statuses <= {200, 400}
    assert 200 in statuses


@pytest.mark.parametrize("path", HOT_PATHS)
async def test_what_the_description_forbids_is_answered_as_it_says(gateway: GatewayProcess, path: str) -> None:
    statuses = await asyncio.to_thread(drive, gateway.url, path, "post", GenerationMode.NEGATIVE)
    assert 400 in statuses
