"""The API reference is true: every example on the page is run, as it stands there, against a real aigw."""

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest

from aigw_daemon.gateway import controls
from aigw_daemon.profile.load import parse
from tests.support.aigw import MODEL, Aigw
from tests.support.engines import CHECKOUT, GO_CLIENT, node, node_clients
from tests.support.kinds import sections
from tests.support.pages import Block, blocks, page, rows, unlike

PAGE = page("api-reference.md")
ENDPOINT = "localhost:4000"
"""What the page says; a test's aigw has a port of its own."""

RUN = {"python", "bash", "javascript", "json", "go", "r"}

NAMES = ("llama3.1:latest", "qwen-coder-vllm", "deepseek-v3.1:671b-cloud", "gpt-*")
"""The page's section on model selection asks for a workstation's names: here the small model has them."""

EMBEDDER, RERANKER = "nomic-embed-text", "bge-reranker-v2-m3"
"""The names that the page uses where a model makes vectors and ranks."""

CONTEXT = 256
"""Examples that leave the length of their answer to the engine end when this is full."""

USES = {
    "As a function": f'print("".join(stream_response(client, "{MODEL}", "Hi")))',
    "Try again with patience": (
        f'response = chat_with_retry(client, "{MODEL}", [{{"role": "user", "content": "Hi"}}], max_retries=1)'
    ),
}
"""For examples that only define a function."""

AFTERWARDS = """
if "response" in globals():
    assert response.choices[0].finish_reason, response
"""

KEPT = "Kept answers"
"""The heading of the example that asks the same twice."""

FOLLOWS = "Requests as they finish"
"""The heading of the one example that doesn't end by itself."""

EXIT_CODES = {"Where a request would go": 1}
"""The example asks what happens without its only backend: nothing is left."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aigw]:
    """An aigw with the names that the page uses."""
    found = Aigw(tmp_path_factory.mktemp("page"))
    try:
        backends = sections(CONTEXT, tools=False, embedder=EMBEDDER, reranker=RERANKER)
        # As in a profile that says nothing of it, answers are kept.
        more = f'capabilities: {{fast: ["{MODEL}"]}}\ncache: {{ttl: 1h}}\n'
        found.up(backends=backends, names=NAMES, extra=more)
        yield found
    finally:
        found.end()


def shell(whole: Aigw, argv: list[str], folder: Path, code: int = 0) -> str:
    """Run an example where the page says that it runs: in the checkout, or beside its module."""
    done = subprocess.run(argv, cwd=folder, env=whole.env, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def here(text: str, whole: Aigw) -> str:
    """The example with this aigw's port, and nothing else changed."""
    return text.replace(ENDPOINT, f"localhost:{whole.port}")


def chosen(language: str) -> list[Any]:
    return [pytest.param(block, id=str(block)) for block in blocks(PAGE, language)]


def shown(heading: str) -> Any:
    """The JSON that the page shows under a heading."""
    return json.loads(next(block.text for block in blocks(PAGE, "json") if block.heading == heading))


def test_every_example_is_run() -> None:
    assert {block.language for block in blocks(PAGE)} == RUN


@pytest.mark.parametrize("block", chosen("python"))
def test_python_examples_run(whole: Aigw, block: Block, tmp_path: Path) -> None:
    first = blocks(PAGE, "python")[0].text
    preamble = "" if "client = OpenAI(" in block.text else first
    script = tmp_path / "example.py"
    script.write_text(here("\n".join([preamble, block.text, USES.get(block.heading, ""), AFTERWARDS]), whole))
    said = shell(whole, [sys.executable, str(script)], tmp_path)
    assert "error:" not in said
    if block.heading == KEPT:
        assert said.split() == ["miss", "hit"]


@pytest.mark.parametrize("block", [block for block in chosen("bash") if FOLLOWS not in str(block.id)])
def test_shell_examples_run(whole: Aigw, block: Block) -> None:
    said = shell(whole, ["bash", "-c", here(block.text, whole)], CHECKOUT, EXIT_CODES.get(block.heading, 0))
    assert said.strip()
    assert '"error"' not in said


@pytest.mark.parametrize("block", chosen("javascript"))
def test_javascript_examples_run(whole: Aigw, block: Block, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(node_clients() / "node_modules")
    (tmp_path / "example.mjs").write_text(here(block.text, whole))
    assert shell(whole, [str(node()), "example.mjs"], tmp_path).strip()


@pytest.mark.program("go")
@pytest.mark.parametrize("block", chosen("go"))
def test_go_examples_run(whole: Aigw, block: Block, tmp_path: Path) -> None:
    shutil.copytree(GO_CLIENT, tmp_path, dirs_exist_ok=True)
    (tmp_path / "main.go").write_text(here(block.text, whole))
    # What go.mod names is there already: nothing may come from the network while a test runs.
    shell(whole, ["env", "GOPROXY=off", "go", "build", "-o", "program", "."], tmp_path)
    assert shell(whole, [str(tmp_path / "program")], tmp_path).strip()


@pytest.mark.program("Rscript")
@pytest.mark.parametrize("block", chosen("r"))
def test_r_examples_run(whole: Aigw, block: Block, tmp_path: Path) -> None:
    (tmp_path / "example.R").write_text(here(block.text, whole))
    said = shell(whole, ["Rscript", "example.R"], tmp_path)
    assert said.startswith("[1] ")  # a text, and not NULL


def test_the_example_that_follows_shows_a_request_as_it_finishes(whole: Aigw, tmp_path: Path) -> None:
    block = next(block for block in blocks(PAGE, "bash") if block.heading == FOLLOWS)
    with subprocess.Popen(
        ["bash", "-c", f"exec {block.text}"], cwd=CHECKOUT, env=whole.env, stdout=subprocess.PIPE, text=True
    ) as tail:
        assert tail.stdout is not None
        assert "STATUS" in tail.stdout.readline()
        whole.ask()
        line = tail.stdout.readline()
        tail.terminate()
    assert "200" in line
    assert MODEL in line


def test_a_chat_answer_has_the_shape_that_the_page_shows(whole: Aigw) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}
    answer = httpx.post(f"{whole.url}/v1/chat/completions", json=body, timeout=60)
    assert unlike(shown("The answer"), answer.json()) == []


def test_vectors_and_ranks_have_the_shapes_that_the_page_shows(whole: Aigw) -> None:
    embedding = {"model": EMBEDDER, "input": "A town by the sea."}
    ranking = {"model": RERANKER, "query": "Where can I swim?", "documents": ["A hill.", "A town by the sea."]}
    for heading, path, body in (("Embeddings", "/v1/embeddings", embedding), ("Rerank", "/v1/rerank", ranking)):
        answer = httpx.post(f"{whole.url}{path}", json=body, timeout=60)
        assert answer.status_code == 200
        assert unlike(shown(heading), answer.json()) == []


def test_every_way_to_name_a_model_that_the_page_shows_finds_one(whole: Aigw) -> None:
    ways = rows(PAGE, "How a name finds its backend")
    found = {name: httpx.get(f"{whole.url}/v1/models/{name}").json() for name, _ in ways}
    assert {name: entry.get("backend") for name, entry in found.items()} == dict.fromkeys(found, "llamacpp")
    assert len(found) == 5


def test_the_list_of_models_has_the_shape_that_the_page_shows(whole: Aigw) -> None:
    listed = httpx.get(f"{whole.url}/v1/models").json()
    assert unlike(shown("Models list"), listed) == []
    (entry,) = [entry for entry in listed["data"] if entry["id"] == MODEL]
    same = ("id", "object", "owned_by", "provider", "state", "backend", "capabilities")
    assert {key: entry[key] for key in same} == {key: shown("Models list")["data"][0][key] for key in same}
    assert not [name["id"] for name in listed["data"] if "*" in name["id"]]


def test_health_has_the_shape_that_the_page_shows(whole: Aigw) -> None:
    answer = whole.health()
    assert unlike(shown("Health"), answer.json()) == []
    assert answer.json()["status"] == shown("Health")["status"]


def test_an_unknown_model_is_the_error_that_the_page_shows(whole: Aigw) -> None:
    answer = httpx.post(f"{whole.url}/v1/chat/completions", json={"model": "invalid-model", "messages": []})
    assert answer.status_code == 404
    assert answer.json() == shown("Errors")
    assert httpx.get(f"{whole.url}/v1/models/invalid-model").json() == shown("Errors")


def test_a_name_that_is_a_little_wrong_is_told_its_neighbours(whole: Aigw) -> None:
    error = httpx.get(f"{whole.url}/v1/models/smollm:135m").json()["error"]
    assert error["message"] == f"Model 'smollm:135m' not found; the nearest names are {MODEL}"


CHAT = "/v1/chat/completions"
GOOD = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}).encode()
LONG = json.dumps({**json.loads(GOOD), "ignore_eos": True, "max_tokens": CONTEXT}).encode()
"""Takes far longer than the request may."""

REFUSED: dict[str, tuple[str, str, dict[str, str], bytes]] = {
    "400 invalid_json": ("POST", CHAT, {}, b'{"model": '),
    "400 invalid_request": ("POST", CHAT, {}, b'{"model": "gpt-4", "n": 0, "messages": []}'),
    "400 invalid_header": ("POST", CHAT, {"x-aigw-timeout": "soon"}, GOOD),
    "403 host_not_allowed": ("POST", CHAT, {"Host": "rebound.example"}, GOOD),
    "403 origin_not_allowed": ("POST", CHAT, {"Origin": "https://page.example"}, GOOD),
    "404 not_found": ("GET", "/v1/nothing", {}, b""),
    "405 method_not_allowed": ("GET", CHAT, {}, b""),
    "413 request_too_large": ("POST", CHAT, {"Content-Length": str(65 << 20)}, b""),
    "415 unsupported_media_type": ("POST", CHAT, {"Content-Encoding": "gzip"}, GOOD),
    "501 endpoint_not_supported": ("POST", "/v1/rerank", {}, GOOD),
    "504 timeout": ("POST", CHAT, {"x-aigw-timeout": "50ms"}, LONG),
    "431 headers_too_large": ("GET", "/v1/models", {"X-Long": "x" * 70_000}, b""),
}


@pytest.mark.parametrize("expected", REFUSED)
def test_what_is_refused_has_status_and_code_of_the_page(whole: Aigw, expected: str) -> None:
    method, path, headers, body = REFUSED[expected]
    status, code = expected.split()
    # The plain client: it sends headers as they are, a length that no body follows among them.
    with contextlib.closing(HTTPConnection("127.0.0.1", whole.port, timeout=30)) as connection:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        assert (str(answer.status), json.load(answer)["error"]["code"]) == (status, code)
    assert code in ", ".join(codes for number, codes, _ in rows(PAGE, "Errors") if number == status)
    assert answer.headers["x-aigw-request-id"]


def test_answers_carry_every_header_that_the_page_lists(whole: Aigw) -> None:
    answer = httpx.post(f"{whole.url}{CHAT}", content=GOOD, timeout=60)
    listed = {name for name, _ in rows(PAGE, "The headers of an answer")}
    # One that stopped for its length is never a kept one, which alone has the hint.
    only_kept = {"x-aigw-cache-hint"}
    assert listed - only_kept == {name for name in answer.headers if name.startswith(("x-aigw-", "x-request-id"))}
    assert answer.headers["x-aigw-backend"] == "llamacpp"
    assert answer.headers["x-aigw-model"] == MODEL
    assert answer.headers["x-aigw-attempts"] == "1"
    assert float(answer.headers["x-aigw-overhead-ms"]) < 1_000


def test_the_page_lists_every_header_of_a_request() -> None:
    listed = [name for name, _ in rows(PAGE, "The headers of a request")]
    assert sorted(listed) == sorted(name.decode() for name in controls.NAMES)


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/docs", "/openapi.json", "/models", "/v1/models"])
def test_every_path_of_the_quick_reference_answers(whole: Aigw, path: str) -> None:
    assert httpx.get(f"{whole.url}{path}").status_code == 200


@pytest.mark.parametrize("name", ["api-reference.md", "model-selection-guide.md", "troubleshooting.md"])
def test_links_lead_to_pages_that_are_there(name: str) -> None:
    targets = [part.partition(")")[0].partition("#")[0] for part in page(name).read_text().split("](")[1:]]
    assert targets
    assert [target for target in targets if target and not (page(name).parent / target).exists()] == []


def test_the_profile_of_the_model_selection_guide_is_valid() -> None:
    (block,) = blocks(page("model-selection-guide.md"), "yaml")
    assert set(parse(block.text, "guide.yaml").routes) == {"chat", "think"}
