"""The envelope, header lines, and which Host and Origin pass."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigw_daemon.gateway.decision import Ask
from aigw_daemon.gateway.failures import AttemptFailed, Kind, spent
from aigw_daemon.gateway.health import health_of
from aigw_daemon.gateway.hosts import HostPolicy
from aigw_daemon.gateway.live import Live
from aigw_daemon.gateway.plans import upstream_path
from aigw_daemon.gateway.routing import Decision
from aigw_daemon.gateway.wire import ApiError, header, kind, status_line
from aigw_daemon.link.messages import CHAT, ENDPOINTS
from aigw_daemon.profile.errors import ProfileError
from aigw_daemon.profile.load import parse
from aigw_daemon.profile.model import Profile
from aigw_daemon.words import State
from tests.support.gateway import backend, snapshot


@given(st.integers(400, 599))
def test_every_error_status_has_a_type_and_a_code(status: int) -> None:
    type_, code = kind(status)
    assert type_.endswith("error")
    assert code
    error = msgspec.json.decode(ApiError(status, "text").body())["error"]
    assert error == {"message": "text", "type": type_, "param": None, "code": code}


@given(st.text())
def test_no_value_breaks_out_of_its_header_line(value: str) -> None:
    line = header("x-test", value.encode("utf-8", "replace").decode())
    assert line.endswith(b"\r\n")
    assert not set(line[:-2]) & {0, 10, 13}
    assert line.isascii()


def test_a_status_line_has_its_phrase() -> None:
    assert status_line(404) == b"HTTP/1.1 404 Not Found\r\n"
    assert status_line(599) == b"HTTP/1.1 599 \r\n"


@pytest.mark.parametrize(
    ("kinds", "status"),
    [
        ([], 503),
        ([Kind.UNREACHABLE], 503),
        ([Kind.LIMITED], 429),
        ([Kind.LIMITED, Kind.UNREACHABLE], 503),
        ([Kind.LIMITED, Kind.FAILED], 500),
        ([Kind.UNREACHABLE, Kind.FAILED], 500),
    ],
)
def test_a_spent_chain_has_one_status(kinds: list[Kind], status: int) -> None:
    met = [(f"b{number}", AttemptFailed(what, "detail")) for number, what in enumerate(kinds)]
    assert spent(Decision("m", "route", "m", ()), met).status == status


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost:80", "127.0.0.1", "127.9.9.9:4000", "[::1]:4000", "a.localhost", "my.lan:1"]
)
def test_hosts_of_this_machine_and_of_the_profile_pass(host: str) -> None:
    policy = HostPolicy(allowed_hosts=["My.Lan"])
    assert policy.refusal(host.encode(), None) is None
    assert policy.refusal(host.encode(), None) is None


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", "0.0.0.0", "[::2]", "127.1.evil"],
)
def test_other_hosts_do_not(host: str) -> None:
    refusal = HostPolicy().refusal(host.encode(), None)
    assert refusal is not None
    assert refusal.status == 403
    assert host in refusal.message


@pytest.mark.parametrize(
    "origin",
    ["http://localhost", "HTTPS://LocalHost:3000", "http://localhost.:3000", "http://[::1]:80", "http://127.0.0.1"],
)
def test_pages_of_this_machine_pass(origin: str) -> None:
    assert HostPolicy().refusal(b"localhost", origin.encode()) is None


@pytest.mark.parametrize(
    "origin",
    [
        "http://attacker.example@localhost",
        "http://attacker.example\\@localhost",
        "http://local\thost",
        "http://localhost/page",
        "http://localhost:1, http://attacker.example",
        "http://localhost:999999",
        "//localhost",
        "localhost",
        "null",
        "",
    ],
)
def test_what_is_no_origin_of_this_machine_does_not(origin: str) -> None:
    refusal = HostPolicy().refusal(b"localhost", origin.encode())
    assert refusal is not None
    assert refusal.code == "origin_not_allowed"


def test_a_profile_may_let_every_origin_in() -> None:
    assert HostPolicy(cors_origins=["*"]).refusal(b"localhost", b"https://any.example") is None
    assert HostPolicy(cors_origins=["*"]).refusal(b"localhost", b"null") is None


@pytest.mark.parametrize("origin", ["vscode-webview://0abc", "VSCODE-WEBVIEW://other", "vscode-webview://"])
def test_a_profile_may_let_all_pages_of_an_application_in(origin: str) -> None:
    policy = HostPolicy(cors_origins=["vscode-webview://*"])
    assert policy.refusal(b"localhost", origin.encode()) is None
    for other in (b"vscode://0abc", b"https://vscode-webview", b"app://vscode-webview://", b"null"):
        assert policy.refusal(b"localhost", other) is not None


def test_a_profile_may_let_all_names_below_another_in() -> None:
    policy = HostPolicy(allowed_hosts=["*.Lan"])
    assert policy.refusal(b"a.lan:4000", b"http://b.c.lan") is None
    for other in (b"lan", b"alan", b"a.lan.example", b"*.lan.example"):
        assert policy.refusal(other, None) is not None


ORIGINS = (
    "https://chat.example", "http://192.168.1.2:8080", "http://[fd00::1]:80", "app://obsidian.md", "tauri://localhost",
    "capacitor://localhost", "vscode-webview://1a2b-3c", "chrome-extension://abcdefghijklmnop", "moz-extension://1-2",
    "file://", "null", "http://my_box:3000", "ionic://localhost", "HTTPS://Chat.Example",
)  # fmt: skip
NO_ORIGINS = (
    "http://a.example, http://b.example",
    "http://a.example/page",
    "*",
    "chat",
    "https://*",
    'x://"',
    "app://*",
)


def profile(setting: str) -> Profile:
    """A profile with this line in its section gateway. Raises ProfileError."""
    return parse(f"version: 1\ngateway:\n  {setting}\nbackends: {{}}\n", "test.yaml")


@pytest.mark.parametrize("origin", ORIGINS)
def test_what_is_advised_for_an_origin_is_a_profile_that_lets_it_in(origin: str) -> None:
    refusal = HostPolicy().refusal(b"localhost", origin.encode())
    assert refusal is not None
    advised = profile(refusal.message.partition("or add ")[2].partition(" to the section gateway")[0])
    policy = HostPolicy(cors_origins=advised.gateway.cors_origins)
    assert policy.refusal(b"localhost", origin.encode()) is None
    assert origin.encode() in policy.cors(origin.encode())
    assert policy.refusal(b"localhost", b"https://other.example") is not None


@pytest.mark.parametrize("origin", NO_ORIGINS)
def test_no_setting_is_advised_for_what_is_no_origin(origin: str) -> None:
    refusal = HostPolicy(cors_origins=["app://*"] if origin != "app://*" else []).refusal(b"localhost", origin.encode())
    assert refusal is not None
    assert "cors_origins" not in refusal.message


@pytest.mark.parametrize(
    "host", ["chat.example:4000", "192.168.1.2", "[fd00::1]:4000", "my_box:80", "a~b", "[fe80::1%eth0]"]
)
def test_what_is_advised_for_a_host_is_a_profile_that_lets_it_in(host: str) -> None:
    refusal = HostPolicy().refusal(host.encode(), None)
    assert refusal is not None
    advised = profile(refusal.message.partition("or add ")[2].partition(" to the section gateway")[0])
    assert HostPolicy(allowed_hosts=advised.gateway.allowed_hosts).refusal(host.encode(), None) is None


@pytest.mark.parametrize("origin", ["*", "null", "app://*", *ORIGINS])
def test_a_profile_takes_every_origin_that_there_is(origin: str) -> None:
    assert profile(f'cors_origins: ["{origin}"]').gateway.cors_origins == (origin,)


@pytest.mark.parametrize(
    "origin", ["http://*", "https://chat.example/", "chat.example", "http://", "a b://c", "**", ""]
)
def test_a_profile_refuses_what_is_no_origin(origin: str) -> None:
    with pytest.raises(ProfileError, match="must be an origin"):
        profile(f'cors_origins: ["{origin}"]')


def test_only_known_upstream_paths_are_ever_built() -> None:
    assert {upstream_path("/v1/", endpoint) for endpoint in ENDPOINTS} == {
        *("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank")
    }
    with pytest.raises(ValueError, match="is not an upstream path"):
        upstream_path("/v1", "../api/delete")


@pytest.mark.parametrize(
    ("state", "wanted", "status", "word"),
    [
        (State.READY, True, 200, "ok"),
        (State.STOPPED, True, 200, "ok"),
        (State.STOPPED, False, 503, "unavailable"),
        (State.DEGRADED, True, 200, "degraded"),
        (State.STARTING, True, 503, "unavailable"),
        (State.FAILED, True, 503, "unavailable"),
    ],
)
def test_health_follows_the_states(state: State, wanted: bool, status: int, word: str) -> None:
    got, health = health_of(snapshot(backend("b", 1, state=state, wanted=wanted)))
    assert (got, health["status"]) == (status, word)
    assert bool(health["reasons"]) == (word != "ok")


def test_without_a_snapshot_nothing_is_available() -> None:
    got, health = health_of(None)
    assert (got, health["status"], health["profile"]) == (503, "unavailable", None)
    assert health["reasons"] == ["the gateway has not heard from its daemon yet"]
    assert Live().plan(Ask("m", CHAT)) is None


def test_one_backend_that_serves_is_enough_to_be_degraded() -> None:
    got, health = health_of(snapshot(backend("a", 1), backend("b", 2, state=State.FAILED, why="no such file")))
    assert (got, health["status"], health["reasons"]) == (200, "degraded", ["b has failed: no such file"])


def test_a_profile_without_backends_says_so() -> None:
    got, health = health_of(snapshot())
    assert (got, health["reasons"]) == (503, ["the profile 'test' has no backends"])
