"""Which URLs go through which proxy, and which certificates count: the decision alone."""

import socket
from pathlib import Path

import certifi
import msgspec
import pytest

from aigw_daemon.network.egress import DIRECT, Egress, egress_for
from aigw_daemon.network.failures import connect_failure
from aigw_daemon.network.hosts import ascii_host, is_loopback
from aigw_daemon.network.pip import pip_environment, pip_problem
from aigw_daemon.network.problems import BadEnvironment
from aigw_daemon.network.proxies import Proxy, proxy_for
from aigw_daemon.network.trust import Trust, tls_context, trust_store

HTTP, HTTPS = "http://engine.example:8000/v1", "https://api.example/v1"
PROXY = "http://proxy.example:3128"


def chosen(url: str, **env: str) -> str | None:
    proxy = proxy_for(url, env)
    return None if proxy is None else proxy.url


@pytest.mark.parametrize(
    ("url", "env", "expected"),
    [
        (HTTP, {}, None),
        (HTTP, {"HTTP_PROXY": PROXY}, PROXY),
        (HTTP, {"http_proxy": PROXY}, PROXY),
        (HTTPS, {"HTTP_PROXY": PROXY}, None),
        (HTTPS, {"HTTPS_PROXY": PROXY}, PROXY),
        (HTTPS, {"https_proxy": PROXY, "ALL_PROXY": "http://other:1"}, PROXY),
        (HTTPS, {"ALL_PROXY": PROXY}, PROXY),
        (HTTP, {"http_proxy": PROXY, "HTTP_PROXY": "http://other:1"}, PROXY),
        (HTTP, {"http_proxy": "", "HTTP_PROXY": PROXY}, None),
        (HTTP, {"HTTP_PROXY": "  ", "ALL_PROXY": PROXY}, PROXY),
        (HTTP, {"HTTP_PROXY": "proxy.example:3128"}, PROXY),
        (HTTP, {"HTTP_PROXY": "proxy.example"}, "http://proxy.example:80"),
        (HTTP, {"HTTP_PROXY": "HTTP://Proxy.Example:3128/"}, PROXY),
        (HTTP, {"HTTP_PROXY": "https://proxy.example"}, "https://proxy.example:443"),
        (HTTP, {"ALL_PROXY": "socks5://proxy.example"}, "socks5://proxy.example:1080"),
        (HTTP, {"ALL_PROXY": "socks5h://[fd00::1]:9"}, "socks5://[fd00::1]:9"),
        (HTTP, {"HTTP_PROXY": "http://127.0.0.1:3128"}, "http://127.0.0.1:3128"),
        ("http+unix:///run/engine.sock", {"ALL_PROXY": PROXY}, None),
    ],
)
def test_a_proxy_is_chosen_by_the_scheme_of_the_url(url: str, env: dict[str, str], expected: str | None) -> None:
    assert chosen(url, **env) == expected


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LOCALHOST", "localhost.", "a.localhost", "127.0.0.1", "127.8.9.1", "127.1", "[::1]",
        "[::ffff:127.0.0.1]", "0.0.0.0", "[::]",
    ],
)  # fmt: skip
def test_this_machine_is_never_asked_through_a_proxy(host: str) -> None:
    for value in (PROXY, "socks://broken", "http://proxy:99999"):
        assert chosen(f"http://{host}:8000/v1", HTTP_PROXY=value, ALL_PROXY=value) is None
        assert chosen(f"https://{host}:8000/v1", HTTPS_PROXY=value) is None


def test_an_international_name_is_written_as_dns_has_it() -> None:
    found = [ascii_host(host) for host in ("engine.example", "bücher.example", "10.0.0.1", "fd00::1", f"{'ü' * 70}.x")]
    assert found == ["engine.example", "xn--bcher-kva.example", "10.0.0.1", "fd00::1", f"{'ü' * 70}.x"]


@pytest.mark.parametrize(
    ("code", "said"), [(socket.EAI_NONAME, ""), (socket.EAI_AGAIN, ": the resolver doesn't answer")]
)
def test_a_name_that_is_unknown_is_told_from_a_resolver_that_is_silent(code: int, said: str) -> None:
    proxy, error = proxy_for(HTTP, {"HTTP_PROXY": PROXY}), OSError("as httpx wraps it")
    error.__cause__ = socket.gaierror(code, "…")
    assert connect_failure(error, "a.example", None) == f"the name a.example can't be resolved{said}"
    assert connect_failure(error, "a.example", proxy) == (
        f"the proxy proxy.example:3128 (HTTP_PROXY) can't be reached: the name proxy.example can't be resolved{said}"
    )


def test_an_unspecified_address_is_no_loopback_to_listen_on() -> None:
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "engine.example", "127.0.0.1.example")] == [False] * 4


@pytest.mark.parametrize(
    ("no_proxy", "host", "direct"),
    [
        ("*", "engine.example", True),
        ("engine.example", "engine.example", True),
        ("ENGINE.example", "engine.EXAMPLE", True),
        ("example", "engine.example", True),
        (".example", "engine.example", True),
        ("*.example", "engine.example", True),
        (".engine.example", "engine.example", True),
        ("gine.example", "engine.example", False),
        ("engine.example.org", "engine.example", False),
        ("a, b\t engine.example", "engine.example", True),
        ("engine.example:8000", "engine.example", True),
        ("engine.example:8001", "engine.example", False),
        ("engine.example.", "engine.example", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3:8000", "10.1.2.3", True),
        ("10.1.2.3:80", "10.1.2.3", False),
        ("10.1.2.4", "10.1.2.3", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.9.9.9/8", "10.1.2.3", True),
        ("10/8", "10.1.2.3", True),
        ("192.168.0.0/16", "10.1.2.3", False),
        ("10.0.0.0/8", "ten.example", False),
        ("fd00::/8", "[fd12::3]", True),
        ("[fd00::]/8", "[fd12::3]", True),
        ("fd00::/8", "[fe80::3]", False),
        ("fd12::3", "[fd12::3]", True),
        ("[fd12::3]", "[fd12:0:0::3]", True),
        ("[fd12::3]:8000", "[fd12::3]", True),
        ("[fd12::3]:1", "[fd12::3]", False),
        ("[::1],fd00::/8", "engine.example", False),
        ("[::1],fd00::/8", "10.1.2.3", False),
        ("::ffff:10.1.2.3", "10.1.2.3", True),
        ("<local>, ,,:", "engine.example", False),
    ],
)
def test_no_proxy_excludes_hosts_domains_addresses_and_networks(no_proxy: str, host: str, direct: bool) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        assert (chosen(f"http://{host}:8000/v1", ALL_PROXY=PROXY, **{name: no_proxy}) is None) is direct


def test_a_port_of_no_proxy_is_held_against_the_scheme_s_own() -> None:
    assert chosen("https://api.example/v1", ALL_PROXY=PROXY, NO_PROXY="api.example:443") is None
    assert chosen("http://api.example/v1", ALL_PROXY=PROXY, NO_PROXY="api.example:443") == PROXY


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("ALL_PROXY", "socks://proxy:1080", "the scheme socks://"),
        ("ALL_PROXY", "socks4://proxy:1080", "the scheme socks4://"),
        ("all_proxy", "ftp://proxy:21", "the scheme ftp://"),
        ("HTTP_PROXY", "http://proxy:99999", "has a port"),
        ("HTTP_PROXY", "http://proxy:none", "has a port"),
        ("HTTP_PROXY", "proxy:0", "has a port"),
        ("HTTP_PROXY", "http://", "names no host"),
        ("HTTP_PROXY", "http://:3128", "names no host"),
        ("HTTP_PROXY", "http://[::1", "Invalid IPv6 URL"),
        ("HTTP_PROXY", "http://pro xy:1", "names no host"),
        ("HTTP_PROXY", f"socks5://u:{'p' * 256}@proxy", "more than 255 bytes"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named_with_the_remedy(variable: str, value: str, said: str) -> None:
    with pytest.raises(BadEnvironment) as caught:
        proxy_for(HTTP, {variable: value})
    assert variable in str(caught.value)
    assert said in str(caught.value)
    assert "add engine.example to NO_PROXY" in str(caught.value)
    assert chosen(HTTP, **{variable: value, "NO_PROXY": "engine.example"}) is None


def test_a_network_that_is_none_is_named_where_a_proxy_depends_on_it() -> None:
    with pytest.raises(BadEnvironment, match=r"NO_PROXY has the entry '10\.0\.0\.0/99', which is no network"):
        proxy_for(HTTP.replace("engine.example", "10.1.1.1"), {"ALL_PROXY": PROXY, "NO_PROXY": "10.0.0.0/99"})
    assert chosen(HTTP, NO_PROXY="10.0.0.0/99") is None


def test_credentials_are_read_and_never_printed() -> None:
    proxy = proxy_for(HTTP, {"HTTP_PROXY": "http://ada:s3%20cret@proxy:1"})
    assert proxy is not None
    assert (proxy.user, proxy.password) == ("ada", "s3 cret")
    for text in (str(proxy), repr(proxy), repr(Egress(proxy)), f"{proxy.__rich_repr__()}", proxy.url):
        assert "s3" not in text
        assert "ada" not in text
    with pytest.raises(BadEnvironment) as caught:
        proxy_for(HTTP, {"HTTP_PROXY": "http://ada:s3cret@proxy:bad"})
    assert "s3cret" not in str(caught.value)


def test_an_egress_travels_over_the_link() -> None:
    egress = Egress(Proxy(scheme="socks5", host="p", port=1, variable="V", user="u", password="w"), Trust("f", "d"))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(egress), type=Egress) == egress


def test_certificates_are_those_of_the_variables_else_the_system_s_else_certifi_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, folder = str(certifi.where()), str(tmp_path)
    assert trust_store({"SSL_CERT_FILE": file}) == Trust(file)
    assert trust_store({"SSL_CERT_DIR": folder}) == Trust(folder=folder)
    assert trust_store({"SSL_CERT_FILE": file, "SSL_CERT_DIR": f"/none:{folder}"}) == Trust(file, f"/none:{folder}")
    found = trust_store({})
    assert tls_context(found).get_ca_certs() or found.folder
    monkeypatch.setattr("aigw_daemon.network.trust._SYSTEM_BUNDLES", ())
    monkeypatch.setattr("ssl.get_default_verify_paths", lambda: _Paths(tmp_path))
    assert trust_store({}) == Trust(file)
    (tmp_path / "0179095f.0").touch()
    assert trust_store({}) == Trust(folder=folder)


class _Paths:
    def __init__(self, folder: Path) -> None:
        self.openssl_cafile = str(folder / "none.pem")
        self.openssl_capath = str(folder)


def test_a_certificate_file_is_named_only_where_tls_is_spoken(tmp_path: Path) -> None:
    missing, empty = {"SSL_CERT_FILE": str(tmp_path / "none.pem")}, tmp_path / "empty.pem"
    empty.write_text("no certificate\n")
    assert egress_for(HTTP, missing) == DIRECT
    for env, said in (
        (missing, "none.pem, which can't be read"),
        ({"SSL_CERT_FILE": str(empty)}, "no certificates that can be read"),
        ({"SSL_CERT_FILE": str(tmp_path)}, "which can't be read"),
        ({"SSL_CERT_DIR": str(empty)}, "which is no folder"),
    ):
        with pytest.raises(BadEnvironment, match=f"SSL_CERT_.*{said}.*unset it to use the system's"):
            egress_for(HTTPS, env)
        with pytest.raises(BadEnvironment):
            egress_for(HTTP, {**env, "HTTP_PROXY": "https://proxy.example"})
        with pytest.raises(BadEnvironment):
            egress_for("https://localhost:8443/v1", env)


def test_pip_is_told_what_the_policy_says() -> None:
    said = {"ALL_PROXY": "socks5://u:p%40@proxy", "NO_PROXY": "a.example", "SSL_CERT_FILE": "/ca.pem", "HOME": "/h"}
    found = pip_environment(said)
    assert {name: value for name, value in found.items() if "proxy" in name.lower()} == {
        "http_proxy": "socks5h://u:p%40@proxy:1080",
        "https_proxy": "socks5h://u:p%40@proxy:1080",
        "no_proxy": "a.example,localhost,127.0.0.0/8,::1",
    }
    assert (found["PIP_CERT"], found["HOME"]) == ("/ca.pem", "/h")
    assert pip_environment({"PIP_CERT": "/own.pem", "SSL_CERT_FILE": "/ca.pem"})["PIP_CERT"] == "/own.pem"
    assert pip_problem(said) is None
    assert "ALL_PROXY" in (pip_problem({"ALL_PROXY": "socks://proxy"}) or "")
