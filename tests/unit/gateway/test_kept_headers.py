"""Which headers of an engine reach the client."""

from hypothesis import given
from hypothesis import strategies as st

from aigw_daemon.gateway.kept_headers import LIMITS, kept_lines
from aigw_daemon.gateway.openapi import EXPOSED_HEADERS

ENGINES_OWN = [
    (b"content-type", b"application/json"),
    (b"content-length", b"5"),
    (b"server", b"llama.cpp"),
    (b"access-control-allow-origin", b"*"),
    (b"set-cookie", b"a=b"),
    (b"openai-organization", b"operators-own"),
    (b"x-aigw-backend", b"another"),
    (b"x-served-by", b"cache-1"),
    (b"retry-after", b"5"),
    (b"x-ratelimit", b"no name of one"),
]


def test_the_allowed_ones_are_kept_and_no_others() -> None:
    limits = [(name.encode(), b"%d" % number) for number, name in enumerate(LIMITS)]
    headers = [*ENGINES_OWN, (b"x-request-id", b"req-up"), (b"openai-processing-ms", b"12"), *limits]
    lines = kept_lines(headers).decode().splitlines()
    wanted = ["x-upstream-request-id: req-up", "openai-processing-ms: 12"]
    assert lines == wanted + [f"{name}: {number}" for number, name in enumerate(LIMITS)]
    assert {line.partition(":")[0] for line in lines} < set(EXPOSED_HEADERS)


def test_an_engine_of_this_machine_has_none() -> None:
    assert kept_lines(ENGINES_OWN) == b""
    assert kept_lines([]) == kept_lines([(b"", b"")]) == b""


def test_there_is_one_id_whatever_it_is_called() -> None:
    assert kept_lines([(b"request-id", b"a"), (b"x-request-id", b"b")]) == b"x-upstream-request-id: a\r\n"


def test_what_is_kept_is_bounded() -> None:
    assert kept_lines([(b"x-request-id", b"a" * 10_000)]) == b""
    many = [(b"x-ratelimit-%d" % number, b"1") for number in range(1000)]
    assert len(kept_lines(many).splitlines()) == 32


@given(st.lists(st.tuples(st.sampled_from([b"x-request-id", b"x-ratelimit-a", b"server"]), st.binary(max_size=40))))
def test_no_value_breaks_out_of_its_line(headers: list[tuple[bytes, bytes]]) -> None:
    lines = kept_lines(headers)
    assert lines.isascii()
    assert lines.count(b"\r\n") == lines.count(b"\n") == lines.count(b"\r") <= 2
