"""The OpenAPI description has all that the gateway serves, and nothing that it doesn't."""

import json
from typing import Any

import pytest

from aigw_daemon.gateway import controls
from aigw_daemon.gateway.assembly import HOT_PATHS
from aigw_daemon.gateway.openapi_bodies import ENDPOINTS
from aigw_daemon.link import messages
from tests.support.description import description

COLD = {
    "/", "/v1/models", "/v1/models/{model_id}", "/models", "/models/{model_id}",
    "/health", "/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return description()


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Each path's one operation."""
    return {path: operation for path, methods in document["paths"].items() for operation in methods.values()}


def test_it_has_every_path_and_no_other(document: dict[str, Any]) -> None:
    assert set(document["paths"]) == HOT_PATHS.keys() | COLD
    assert all(list(document["paths"][path]) == ["post"] for path in HOT_PATHS)


def test_every_endpoint_of_an_engine_has_its_shapes() -> None:
    assert ENDPOINTS.keys() == set(messages.ENDPOINTS)


def test_every_control_is_a_parameter_of_every_hot_route(document: dict[str, Any]) -> None:
    wanted = {name.decode() for name in controls.NAMES}
    for path in HOT_PATHS:
        assert {one["name"] for one in operations(document)[path]["parameters"]} == wanted


def test_operations_have_names_of_their_own(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for operation in operations(document).values()]
    assert len(set(names)) == len(names)


def test_a_refusal_that_only_fastapi_has_is_not_described(document: dict[str, Any]) -> None:
    assert all("422" not in operation["responses"] for operation in operations(document).values())
    assert "ValidationError" not in json.dumps(document)


def test_what_it_refers_to_is_there(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    kinds = document["components"]
    references = {part.partition('"')[0] for part in text.split('"#/components/')[1:]}
    assert references == {f"{kind}/{name}" for kind, named in kinds.items() for name in named}
