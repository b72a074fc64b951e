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
from tests.support.gateway import GatewayProcess, ask, backend, gateway_process, post, route, snapshot

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
            gateway=GatewayView(cors_origins=(ORIGIN, "app://obsidian.md"), allowed_hosts=("gateway.lan",)),
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
        "listed": True,
        "last_listed": None,
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


CHAT = "/v1/chat/completions"
EARLY = {
    "too large": (413, {"content-length": "999999999"}, "POST", CHAT),
    "compressed": (415, {"content-encoding": "gzip"}, "POST", CHAT),
    "another method": (405, {}, "PUT", CHAT),
    "another method of a cold path": (405, {}, "POST", "/v1/models"),
    "no such path": (404, {}, "POST", "/v1/nowhere"),
    "another host": (403, {"host": "attacker.example"}, "POST", CHAT),
    "a long head": (431, {"x-long": "a" * 70_000}, "POST", CHAT),
    "another transfer-encoding": (400, {"transfer-encoding": "gzip"}, "POST", CHAT),
    "a url with a user": (400, {}, "POST", "http://user@localhost/"),
}


@pytest.mark.parametrize("origin", [ORIGIN, "app://obsidian.md", "https://attacker.example"])
@pytest.mark.parametrize("fault", EARLY)
async def test_a_refusal_may_be_read_by_whoever_may_read_an_answer(
    gateway: GatewayProcess, fault: str, origin: str
) -> None:
    """A page whose browser hides a refusal from it is told of a network error."""
    status, wrong, method, target = EARLY[fault]
    given = {"host": "localhost", "origin": origin, "content-length": "2"} | wrong
    if "transfer-encoding" in wrong:
        del given["content-length"]
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    got, headers, _ = await ask(gateway.port, f"{method} {target} HTTP/1.1\r\n{lines}\r\n{{}}".encode())
    answered = await ask(gateway.port, post(b"{}", CHAT, f"origin: {origin}"))
    if origin.startswith("https://attacker") and status in {404, 405}:
        status = 403
    assert got == status
    assert cors_lines(headers) == cors_lines(answered[1])
    assert (b"access-control-allow-origin" in headers) == (not origin.startswith("https://attacker"))


def cors_lines(headers: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """What a browser decides by."""
    return {name: value for name, value in headers.items() if name.startswith(b"access-control-") or name == b"vary"}


async def test_a_page_gets_no_leave_to_send_what_the_browser_knows(gateway: GatewayProcess) -> None:
    """Cookies and the like: neither an origin that is listed, nor one of all."""
    for origins in ((ORIGIN,), ("*",)):
        await gateway.apply(snapshot(gateway=GatewayView(cors_origins=origins)))
        _, headers, _ = await ask(gateway.port, post(b"{}", CHAT, f"origin: {ORIGIN}"))
        assert headers[b"access-control-allow-origin"] == ORIGIN.encode()
        assert b"access-control-allow-credentials" not in headers


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize(("path", "status"), [("/v1/nowhere", 404), ("/v1/models", 405), ("/", 404), (CHAT, 405)])
async def test_a_body_that_nobody_wants_is_refused_before_it_is_sent(
    gateway: GatewayProcess, method: str, path: str, status: int
) -> None:
    if (method, path) == ("POST", CHAT):
        return
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 60000000\r\n\r\n"
    got, headers, body = await ask(gateway.port, head.encode())
    assert (got, headers[b"connection"]) == (status, b"close")
    assert msgspec.json.decode(body)["error"]["code"] == ("not_found" if status == 404 else "method_not_allowed")


async def test_the_root_says_what_this_is(client: httpx.AsyncClient) -> None:
    told = (await client.get("/")).json()
    assert (told["name"], told["base_path"]) == ("aigw", "/v1")
    for place in ("models", "health", "docs", "openapi"):
        assert (await client.get(told[place])).status_code == 200
    assert (await client.head("/")).status_code == 200
    posted = await client.post("/", json={})
    assert posted.status_code == 404
    assert "/v1" in error_of(posted)["message"]


@pytest.mark.parametrize("path", ["/v1/models/", "/models/"])
async def test_the_list_of_models_with_a_slash_is_the_list(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).content == (await client.get("/v1/models")).content


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/docs", "/nowhere", CHAT])
async def test_the_host_of_a_url_counts_and_passes_the_same_guard(gateway: GatewayProcess, path: str) -> None:
    def asked(url: str, host: str) -> bytes:
        return f"GET {url}{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode()

    status, _, body = await ask(gateway.port, asked("http://attacker.example", "localhost"))
    assert (status, msgspec.json.decode(body)["error"]["code"]) == (403, "host_not_allowed")
    plain = await ask(gateway.port, asked("", "localhost"))
    for url in ("http://localhost", "http://127.0.0.1:4000", "http://gateway.lan", "HTTP://[::1]"):
        assert (await ask(gateway.port, asked(url, "attacker.example")))[0] == plain[0]


@pytest.mark.parametrize("path", ["/v1/models", "/nowhere", CHAT, "/health"])
async def test_every_answer_has_its_id_under_both_names(client: httpx.AsyncClient, path: str) -> None:
    for answer in (
        await client.get(path),
        await client.post(path, json={"model": "chat", "messages": []}),
        await client.post(path, content=b"{"),
        await client.get(path, headers={"host": "attacker.example"}),
        await client.post(path, content=b"", headers={"content-encoding": "gzip"}),
        await client.options(path, headers={"origin": ORIGIN}),
    ):
        assert answer.headers["x-request-id"] == answer.headers["x-aigw-request-id"]


@pytest.mark.parametrize("origin", ["https://attacker.example", "null", "http://localhost.attacker.example", "file://"])
async def test_a_foreign_origin_may_neither_ask_nor_prepare_to(client: httpx.AsyncClient, origin: str) -> None:
    for method in ("OPTIONS", "POST", "GET"):
        answer = await client.request(method, "/v1/models", headers={"origin": origin})
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers


async def test_a_host_that_the_profile_adds_is_answered(client: httpx.AsyncClient) -> None:
    assert (await client.get("/health/live", headers={"host": "gateway.lan:4000"})).status_code == 200
    assert (await client.get("/health/live", headers={"host": "other.lan"})).status_code == 403
