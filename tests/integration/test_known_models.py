"""What a backend listed stays known while it can't be asked, and what a command calls ready the gateway knows."""

from contextlib import ExitStack
from pathlib import Path

import httpx

from tests.support.aigw import Aigw, free_port, profile_text
from tests.support.cloud import cloud_server
from tests.support.wait import eventually_now

QUESTION = {"messages": [{"role": "user", "content": "Hi"}]}


def ask(served: Aigw, model: str) -> httpx.Response:
    return httpx.post(f"{served.url}/v1/chat/completions", json={"model": model, **QUESTION}, timeout=20)


def test_a_url_that_goes_and_comes_back(tmp_path: Path) -> None:
    served, port = Aigw(tmp_path), free_port()
    text = profile_text(
        served.port,
        backends=f"  c: {{engine: openai, url: 'http://127.0.0.1:{port}/v1'}}\n",
        names=(),
        extra='routes: {chat: {targets: [c]}, plain: {targets: [{backend: c}]}, "gpt-*": {targets: [c]}}\n',
    )
    path = str(served.write_profile(text))
    with ExitStack() as stack:
        stack.callback(served.end)
        with cloud_server("one", port=port) as cloud:
            served.run("up", "--profile", path)
            for name in ("one", "chat", "plain", "gpt-4o"):
                assert ask(served, name).status_code == 200
            assert {body["model"] for _, body in cloud.asked} == {"one"}
            for _ in range(2):
                served.run("stop", "c")
                assert "stopped by the operator" in ask(served, "one").text
                served.run("start", "c")
                assert ask(served, "one").status_code == 200
        served.run("start", "c", code=None)
        eventually_now(lambda: served.backend("c")["state"] == "unreachable", seconds=30, what="its loss")
        _is_known_and_gone(served)
        # Also to the next daemon, which never saw it well.
        served.kill_daemon()
        served.run("up", code=1)
        _is_known_and_gone(served)
        assert "it refuses connections" in served.run("start", "c", code=1).stdout
        with cloud_server("one", port=port):
            served.run("start", "c")
            assert ask(served, "one").status_code == 200


def _is_known_and_gone(served: Aigw) -> None:
    for name in ("one", "chat", "gpt-4o"):
        answer = ask(served, name)
        assert (answer.status_code, answer.headers.get("retry-after")) == (503, "2"), answer.text
    shown = {entry["id"]: entry for entry in httpx.get(f"{served.url}/v1/models").json()["data"]}
    assert (shown["one"]["state"], shown["one"]["listed"]) == ("unreachable", False)
    assert shown["one"]["last_listed"] > 1_700_000_000
    assert served.backend("c")["models"] == []
