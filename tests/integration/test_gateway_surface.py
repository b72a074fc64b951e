"""The rest of the surface: models, health, documentation, CORS, and errors in one envelope everywhere."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio

from aigw_daemon.gateway import controls
from aigw_daemon.gateway.assembly import HOT_PATHS
from aigw_daemon.link.messages import GatewayView
from aigw_daemon.words import EngineKind, State
from tests.support.fake_engine import FakeEngine, fake_engine, says, whole
from tests.support.gateway import GatewayProcess, backend, gateway_process, route, snapshot

pytestmark = pytest.mark.asyncio(loop_scope="module")

ORIGIN = "https://chat.example"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[FakeEngine]:
    async with fake_engine(says(whole())) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker() -> AsyncIterator[GatewayProcess]:
    async with gateway_process() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(worker: GatewayProcess, engine: FakeEngine) -> GatewayProcess:
    """A worker on a snapshot with one of everything."""
    await worker.start_over(
        snapshot(
            backend("local", engine.port, models=["llama3.1:latest", "org/name:tag"], engine=EngineKind.OLLAMA),
            backend("cold", 9, models=["coder"], engine=EngineKind.VLLM, state=State.STOPPED),
            backend("broken", 9, models=["gone"], state=State.FAILED, why="the model file is missing"),
            routes=[
                route("chat", ("local", "llama3.1:latest")),
                route("coder", ("cold", "coder")),
                route("gpt-*", ("local", "llama3.1:latest"), pattern=True),
            ],
            gateway=GatewayView(cors_origins=(ORIGIN,), allowed_hosts=("gateway.lan",)),
        )
    )
    return worker


@pytest_asyncio.fixture(loop_scope="module")
async def client(gateway: GatewayProcess) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.url) as open_client:
        yield open_client


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """What the envelope says; every error has the id of its request."""
    assert answer.headers["x-aigw-request-id"].startswith("req_")
    assert answer.headers["cache-control"] == "private, no-store"
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return dict(error)


async def test_a_caller_that_comes_before_the_first_snapshot_waits_for_it(worker: GatewayProcess) -> None:
    async with (
        gateway_process() as fresh,
        httpx.AsyncClient(base_url=fresh.url) as client,
        asyncio.TaskGroup() as tasks,
    ):
        asked = tasks.create_task(client.get("/health", timeout=20))
        done, _ = await asyncio.wait({asked}, timeout=0.3)
        assert not done  # it is in the kernel's queue: neither refused nor turned away
        fresh.push(snapshot(backend("local", fresh.port), routes=[route("chat", ("local", "m"))]))
        answer = await asked
        assert (answer.status_code, answer.json()["status"]) == (200, "ok")


@pytest.mark.parametrize("prefix", ["/v1", ""])
async def test_models_lists_routes_and_what_backends_list(client: httpx.AsyncClient, prefix: str) -> None:
    listed = (await client.get(f"{prefix}/models")).json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == [
        "chat", "coder", "llama3.1:latest", "org/name:tag", "gone",
    ]  # fmt: skip
    assert listed["data"][0] == {
        "id": "chat",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "ollama",
        "provider": "workspace-backend",
        "state": "ready",
        "backend": "local",
        "context_length": 4096,
        "capabilities": [],
    }
    assert listed["data"][1]["owned_by"] == "vllm"
    assert listed["data"][1]["state"] == "stopped"


@pytest.mark.parametrize(
    "name", ["chat", "llama3.1:latest", "org/name:tag", "org%2Fname%3Atag", "gpt-4o", "local/llama3.1"]
)
async def test_a_model_is_found_by_any_name_that_can_be_asked_for(client: httpx.AsyncClient, name: str) -> None:
    answer = await client.get(f"/v1/models/{name}")
    assert answer.status_code == 200
    assert answer.json()["owned_by"] == "ollama"


async def test_an_unknown_model_is_404_with_the_nearest(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/models/llama3.2:latest")
    assert answer.status_code == 404
    assert error_of(answer)["code"] == "model_not_found"
    assert "llama3.1:latest" in error_of(answer)["message"]


async def test_health_tells_each_provider_and_the_reasons(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.requests.clear()
    answer = await client.get("/health")
    health = answer.json()
    assert (answer.status_code, health["status"]) == (200, "degraded")
    assert health["providers"]["local"] == {
        "engine": "ollama",
        "state": "ready",
        "models": ["llama3.1:latest", "org/name:tag"],
        "since": 1_700_000_000.0,
        "why": None,
    }
    assert health["reasons"] == ["broken has failed: the model file is missing"]
    assert (await client.get("/health/ready")).status_code == 200
    assert engine.requests == []


async def test_head_is_answered_without_a_body(client: httpx.AsyncClient) -> None:
    answer = await client.head("/health")
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) > 0


async def test_the_page_of_the_description_needs_no_other_address(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http://" not in page.text
    assert "https://" not in page.text


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/health/", 404, "not_found"),
        ("GET", "/docs/", 404, "not_found"),
        ("POST", "/v1/nowhere", 404, "not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/completions", 405, "method_not_allowed"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
    ],
)
async def test_unknown_paths_and_methods_are_answered_in_the_envelope(
    client: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    answer = await client.request(method, path)
    assert answer.status_code == status
    assert error_of(answer)["code"] == code
    assert (status == 405) == ("allow" in answer.headers)


@pytest.mark.parametrize("origin", [ORIGIN, "http://localhost:3000", "http://127.0.0.1:8080", "http://gateway.lan"])
@pytest.mark.parametrize("path", [*HOT_PATHS, "/v1/models"])
async def test_an_allowed_origin_may_ask_and_read(client: httpx.AsyncClient, origin: str, path: str) -> None:
    own = ", ".join(["authorization", "content-type", *sorted(name.decode() for name in controls.NAMES)])
    asked = {"access-control-request-method": "POST", "access-control-request-headers": own}
    preflight = await client.options(path, headers={"origin": origin, **asked})
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-headers"] == own
    assert preflight.headers["access-control-allow-origin"] == origin
    assert "POST" in preflight.headers["access-control-allow-methods"]
    body = msgspec.json.encode({"model": "chat", "messages": []})
    method = "POST" if path in HOT_PATHS else "GET"
    answer = await client.request(method, path, content=body, headers={"origin": origin})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == origin


async def test_a_page_may_read_every_header_that_is_ours(client: httpx.AsyncClient) -> None:
    page = {"origin": ORIGIN}
    answer = await client.post("/v1/chat/completions", json={"model": "chat", "messages": []}, headers=page)
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert {name for name in answer.headers if name.startswith("x-aigw-")} < set(exposed)
    failed = await client.post("/v1/chat/completions", json={"model": "gone"}, headers=page)
    assert failed.status_code == 503
    assert "retry-after" in failed.headers
    assert {"retry-after", "x-should-retry"} < set(failed.headers["access-control-expose-headers"].split(", "))


@pytest.mark.parametrize("origin", ["https://attacker.example", "null", "http://localhost.attacker.example", "file://"])
async def test_a_foreign_origin_may_neither_ask_nor_prepare_to(client: httpx.AsyncClient, origin: str) -> None:
    for method in ("OPTIONS", "POST", "GET"):
        answer = await client.request(method, "/v1/models", headers={"origin": origin})
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers


async def test_a_host_that_the_profile_adds_is_answered(client: httpx.AsyncClient) -> None:
    assert (await client.get("/health/live", headers={"host": "gateway.lan:4000"})).status_code == 200
    assert (await client.get("/health/live", headers={"host": "other.lan"})).status_code == 403
