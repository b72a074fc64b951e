"""Routing end to end: a whole aigw between a client and a cloud, and what the operator is shown of it."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.aigw import Aigw
from tests.support.cloud import Cloud, cloud_server
from tests.support.wait import eventually_now

PROFILE = """
version: 1
gateway: {{port: {port}, max_attempts: 4}}
backends:
  house: {{engine: openai, url: "{house}", max_concurrency: 4, max_queue: 9}}
  cloud: {{engine: openai, url: "{cloud}", cloud: true}}
routes:
  deep: {{targets: [{{backend: cloud, model: "deep:1t"}}, {{backend: house, model: small}}]}}
  old: {{targets: [{{backend: cloud, model: "old:1b-cloud"}}, {{backend: house, model: small}}]}}
  tuned:
    targets: [{{backend: house, model: small}}]
    defaults: {{temperature: 0.2, seed: 7}}
    override: {{top_k: 40}}
    drop: [user]
  short: {{targets: [{{backend: house, model: tiny}}], on_context_overflow: ["cloud/deep:1t"]}}
  "~gpt-[0-9]+": {{alias: deep}}
capabilities:
  code: [missing, "house/small"]
"""


@pytest.fixture(scope="module")
def house() -> Iterator[Cloud]:
    """An endpoint in the house."""
    with cloud_server("small", "tiny") as served:
        yield served


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    """One on the internet, so to say."""
    with cloud_server("deep:1t", "other") as served:
        yield served


@pytest.fixture(scope="module")
def whole(house: Cloud, cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aigw]:
    """An aigw in front of both."""
    made = Aigw(tmp_path_factory.mktemp("aigw"))
    try:
        made.up(text=PROFILE.format(port=made.port, house=house.url, cloud=cloud.url))
        yield made
    finally:
        made.end()


def ask(whole: Aigw, model: str, path: str = "chat/completions", **fields: object) -> httpx.Response:
    """One question."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], **fields}
    return httpx.post(f"{whole.url}/v1/{path}", json=body, timeout=30)


@pytest.mark.parametrize(
    ("model", "backend", "upstream"),
    [
        ("deep:1t-cloud", "cloud", "deep:1t"),
        ("other:cloud", "cloud", "other"),
        ("cloud/other:cloud", "cloud", "other"),
        ("deep", "cloud", "deep:1t"),
        ("gpt-4", "cloud", "deep:1t"),
        ("old", "house", "small"),
        ("code", "house", "small"),
    ],
)
def test_a_request_goes_where_its_name_leads(whole: Aigw, model: str, backend: str, upstream: str) -> None:
    answer = ask(whole, model)
    assert answer.status_code == 200
    assert (answer.headers["x-aigw-backend"], answer.headers["x-aigw-model"]) == (backend, upstream)


def test_test_routing_says_the_same_as_the_request_finds(whole: Aigw) -> None:
    for model in ("deep:1t-cloud", "gpt-4", "old", "code", "tuned"):
        told = whole.json("test-routing", model)
        first = next(candidate for candidate in told["candidates"] if candidate["kept"])
        answer = ask(whole, model)
        assert (first["backend"], first["model"]) == (answer.headers["x-aigw-backend"], answer.headers["x-aigw-model"])


def test_a_routes_fields_reach_the_engine(whole: Aigw, house: Cloud) -> None:
    ask(whole, "tuned", temperature=0.9, top_k=1, user="me")
    _path, body = house.asked[-1]
    assert {name: body.get(name) for name in ("temperature", "seed", "top_k", "user")} == {
        "temperature": 0.9, "seed": 7, "top_k": 40, "user": None,
    }  # fmt: skip


def test_embeddings_never_go_to_another_model(whole: Aigw, cloud: Cloud) -> None:
    cloud.refuses["deep:1t"] = (500, "it is down")
    try:
        answer = ask(whole, "deep", "embeddings", input="x")
    finally:
        del cloud.refuses["deep:1t"]
    assert answer.status_code >= 500
    assert {"house: another model than 'deep:1t', and embeddings of two models don't mix"} <= set(
        answer.json()["error"]["message"].replace("; ", "\n").split("\n")
    )


def test_all_that_can_be_asked_for_is_listed(whole: Aigw) -> None:
    listed = {model["id"]: model for model in httpx.get(f"{whole.url}/v1/models").json()["data"]}
    assert list(listed) == [
        "deep", "old", "tuned", "short", "small", "tiny", "deep:1t", "other", "deep:1t-cloud", "other:cloud", "code",
    ]  # fmt: skip
    assert {model["created"] for model in listed.values()} == {1_700_000_000}
    assert listed["deep:1t-cloud"]["backend"] == "cloud"


def test_a_model_that_the_cloud_no_longer_offers_is_told_in_status_and_test_routing(whole: Aigw) -> None:
    warning = "cloud no longer offers old:1b-cloud, which the route 'old' asks it for"
    assert whole.backend("cloud")["warnings"] == [warning]
    assert warning in whole.run("status").stdout
    assert f"warning: {warning}" in whole.run("test-routing", "old").stdout


def test_explain_tells_the_limits_that_hold(whole: Aigw) -> None:
    told = whole.run("test-routing", "deep", "--explain").stdout
    assert "cloud    0 in flight, no limit · first token within 1m00s · at most 1m00s between tokens\n" in told
    assert (
        "house    0 of 4 slots in use · 0 of 9 waiting · first token within 5m00s · at most 1m00s between tokens\n"
        in told
    )
    assert "request  10m00s in total · at most 4 attempts · at most 1m00s in a queue\n" in told


def test_a_circuit_that_requests_have_opened_shows_in_test_routing(aigw: Aigw, house: Cloud) -> None:
    with cloud_server("deep:1t") as failing:
        failing.refuses["deep:1t"] = (500, "it is down")
        aigw.up(text=PROFILE.format(port=aigw.port, house=house.url, cloud=failing.url))
        assert {ask(aigw, "deep").headers["x-aigw-backend"] for _ in range(6)} == {"house"}

        def first() -> dict[str, Any]:
            candidate: dict[str, Any] = aigw.json("test-routing", "deep")["candidates"][0]
            return candidate

        eventually_now(lambda: not first()["kept"], what="an open circuit in test-routing")
        assert first()["reason"].startswith("its circuit is open: ")
        assert first()["limits"]["circuit"]
        assert "circuit open: " in aigw.run("test-routing", "deep", "--explain").stdout
