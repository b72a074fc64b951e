"""`aigw up`, `start`, `restart`, `stop` and `down`: the way to ready and back, as plain text and as JSON."""

import json

import pytest
from msgspec.structs import replace

from aigw_cli.render.look import Look
from aigw_cli.render.up import interrupted_lines, progress_lines
from aigw_daemon.control import launch
from aigw_daemon.control.schema import BackendStatus, CacheStatus, Example, GatewayStatus, Problem, PullEvent, Status
from tests.support.fake_daemon import Asked, ControlC, FakeDaemon, LastWords
from tests.support.statuses import starter
from tests.unit.cli.conftest import Aigw

READY_SUMMARY = """\
Gateway  http://127.0.0.1:4000/v1
Models   smollm2-135m

curl http://127.0.0.1:4000/v1/chat/completions \\
  -H 'Content-Type: application/json' \\
  -d '{"model": "smollm2-135m", "messages": [{"role": "user", "content": "Hi"}]}'

Next     aigw status   aigw logs llamacpp -f   aigw tail   aigw down
"""

ON_ITS_WAY = [
    starter("starting", progress="load_tensors: loading model tensors"),
    starter("starting", progress="srv: warming up", since_s=1.0),
    starter("ready", since_s=600),
]


def failed() -> Status:
    return starter(
        "failed",
        pid=None,
        why="the model file is missing: /models/x.gguf",
        log_tail=["gguf_init_from_file: failed to open", "main: exiting due to model loading error"],
    )


def test_up_shows_the_way_to_ready_and_what_to_do_next(aigw: Aigw, daemon: FakeDaemon) -> None:
    daemon.answers("POST /v1/up", starter("starting"))
    daemon.streams("GET /v1/watch", ON_ITS_WAY)
    ran = aigw("up", "--profile", "starter")
    assert ran.out == (
        "llamacpp  starting: load_tensors: loading model tensors\n"
        "llamacpp  ready\n"
        "\n"
        "llamacpp  ready  since 10m00s\n"
        "\n" + READY_SUMMARY
    )
    assert (ran.code, ran.err) == (0, "")
    assert daemon.asked[0] == Asked("POST", "/v1/up", {}, {"backends": [], "profile": "starter"})


def test_up_says_why_a_backend_failed_and_shows_its_log(aigw: Aigw, daemon: FakeDaemon) -> None:
    daemon.answers("POST /v1/up", starter("starting"))
    daemon.streams("GET /v1/watch", [starter("starting"), failed()])
    ran = aigw("up")
    assert ran.code == 1
    assert ran.out == (
        "llamacpp  starting\n"
        "llamacpp  failed: the model file is missing: /models/x.gguf\n"
        "\n"
        "llamacpp  failed\n"
        "  the model file is missing: /models/x.gguf\n"
        "  | gguf_init_from_file: failed to open\n"
        "  | main: exiting due to model loading error\n"
        "\n"
        "Next     aigw why llamacpp   aigw logs llamacpp   aigw restart llamacpp   aigw status\n"
    )


def test_up_says_why_the_gateway_failed(aigw: Aigw, daemon: FakeDaemon) -> None:
    gateway = GatewayStatus(url=None, state="failed", why="the worker crashed 5 times in 60 s")
    daemon.answers("POST /v1/up", starter("starting"))
    daemon.streams("GET /v1/watch", [starter("ready", since_s=600, gateway=gateway)])
    ran = aigw("up")
    assert ran.code == 1
    assert "gateway failed: the worker crashed 5 times in 60 s\n\nNext     aigw logs gateway" in ran.out


def test_up_fetches_missing_models_first(aigw: Aigw, daemon: FakeDaemon) -> None:
    missing = Problem(code="models_missing", message="a model is missing", details=["smollm2-135m"])
    daemon.refuses("POST /v1/up", missing)
    daemon.answers("POST /v1/up", starter("starting"))
    total = 98362432
    steps = [
        PullEvent(phase="downloading", model="smollm2-135m", done_bytes=total * n // 40, total_bytes=total)
        for n in range(41)
    ]
    ends = [
        PullEvent(phase="verifying", model="smollm2-135m"),
        PullEvent(phase="done", model="smollm2-135m", path="/m/s.gguf"),
    ]
    daemon.streams("POST /v1/pull", [PullEvent(phase="resolving", model="smollm2-135m"), *steps, *ends])
    daemon.streams("GET /v1/watch", [starter("ready", since_s=600)])
    ran = aigw("up", "--profile", "starter")
    assert ran.code == 0
    assert ran.out.splitlines()[:14] == [
        "smollm2-135m: resolving",
        *(f"smollm2-135m: {percent} % of 98.4MB" for percent in range(0, 101, 10)),
        "smollm2-135m: verifying",
        "smollm2-135m is here: /m/s.gguf",
    ]
    assert [asked.path for asked in daemon.asked] == ["/v1/up", "/v1/pull", "/v1/up", "/v1/watch"]
    pulled = daemon.asked[1].body
    assert pulled is not None
    assert (pulled["model"], pulled["profile"], pulled["backend"]) == ("smollm2-135m", "starter", None)


def test_up_as_json_tells_how_far_a_start_is(aigw: Aigw, daemon: FakeDaemon) -> None:
    daemon.answers("POST /v1/up", starter("starting"))
    ways = [("loading the weights: 0 %", 3), ("loading the weights: 50 %", 8.25), ("loading the weights: 50 %", 9)]
    steps = [starter("starting", progress=said, since_s=seconds) for said, seconds in ways]
    daemon.streams("GET /v1/watch", [*steps, starter("ready", since_s=600)])
    lines = [json.loads(line) for line in aigw("up", "--json").out.splitlines()]
    assert [line["event"] for line in lines] == ["state", "progress", "progress", "state", "result"]
    assert lines[2] == {
        "event": "progress",
        "backend": "llamacpp",
        "progress": "loading the weights: 50 %",
        "since_s": 8.2,
    }


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
        ("completions", {"prompt": "Hi"}),
        ("embeddings", {"input": "Hi"}),
        ("rerank", {"query": "Hi", "documents": ["Hello", "Goodbye"]}),
    ],
)
def test_example_asks_a_model_for_what_it_does(
    aigw: Aigw, daemon: FakeDaemon, endpoint: str, body: dict[str, object]
) -> None:
    daemon.answers("POST /v1/up", starter("starting"))
    ready = starter("ready", since_s=600, example=Example(model="m", endpoint=endpoint))
    daemon.streams("GET /v1/watch", [ready])
    out = aigw("up").out
    assert f"curl http://127.0.0.1:4000/v1/{endpoint} \\\n" in out
    assert f"  -d '{json.dumps({'model': 'm', **body})}'" in out


def test_example_prefers_a_model_that_chats(aigw: Aigw, daemon: FakeDaemon) -> None:
    embeds, chats = (
        starter("ready", since_s=600, example=Example(model=model, endpoint=endpoint), models=[model]).backends[0]
        for model, endpoint in (("a-embed", "embeddings"), ("z-chat", "chat/completions"))
    )
    both = replace(starter("ready"), backends=[embeds, chats])
    daemon.answers("POST /v1/up", both)
    daemon.streams("GET /v1/watch", [both])
    out = aigw("up").out
    assert '"model": "z-chat"' in out
    assert "a-embed, z-chat" in out


def test_there_is_no_example_where_no_model_has_an_endpoint(aigw: Aigw, daemon: FakeDaemon) -> None:
    ready = starter("ready", since_s=600, models=["whisper-1"], example=None)
    daemon.answers("POST /v1/up", ready)
    daemon.streams("GET /v1/watch", [ready])
    out = aigw("up").out
    assert "whisper-1" in out
    assert "curl" not in out


def test_up_says_which_try_a_start_is(aigw: Aigw, daemon: FakeDaemon) -> None:
    again = starter("starting", why="try 2 of 3: it ran out of memory", progress="loading")
    daemon.answers("POST /v1/up", starter("starting"))
    daemon.streams("GET /v1/watch", [again, starter("ready", since_s=600)])
    assert "llamacpp  starting: try 2 of 3: it ran out of memory\n" in aigw("up").out
    (_, line) = progress_lines(again, ["llamacpp"], Look(width=100, plain=True))
    assert "try 2 of 3: it ran out of memory" in line.plain


def test_up_as_json_is_events_and_a_result(aigw: Aigw, daemon: FakeDaemon) -> None:
    missing = Problem(code="models_missing", message="a model is missing", details=["smollm2-135m"])
    daemon.refuses("POST /v1/up", missing)
    daemon.answers("POST /v1/up", starter("starting"))
    daemon.streams("POST /v1/pull", [PullEvent(phase="done", model="smollm2-135m", already=True)])
    daemon.streams("GET /v1/watch", [starter("starting"), failed()])
    ran = aigw("up", "--json")
    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert [line["event"] for line in lines] == ["pull", "state", "state", "result"]
    assert lines[1] == {"event": "state", "backend": "llamacpp", "state": "starting", "why": None}
    assert (lines[3]["ok"], lines[3]["failed"]) == (False, ["llamacpp"])
    assert lines[3]["status"]["profile"] == "starter"
    assert ran.code == 1


def test_up_waits_only_for_the_backends_that_were_named(aigw: Aigw, daemon: FakeDaemon) -> None:
    status = starter("ready", since_s=600)
    other = replace(status.backends[0], name="other", state="starting")
    both = replace(status, backends=[*status.backends, other])
    daemon.answers("POST /v1/up", both)
    daemon.streams("GET /v1/watch", [both])
    assert aigw("up", "llamacpp").code == 0
    assert daemon.asked[0].body == {"backends": ["llamacpp"], "profile": None}


def test_a_profile_file_is_told_by_its_absolute_path(
    aigw: Aigw, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/usr")
    daemon.answers("POST /v1/up", starter("ready", since_s=600))
    daemon.streams("GET /v1/watch", [starter("ready", since_s=600)])
    aigw("up", "--profile", "mine.yaml")
    assert daemon.asked[0].body["profile"] == "/usr/mine.yaml"


def test_ctrl_c_while_waiting_says_that_it_goes_on(aigw: Aigw, daemon: FakeDaemon) -> None:
    daemon.answers("POST /v1/up", starter("starting"))
    daemon.streams("GET /v1/watch", [starter("starting"), ControlC()])
    ran = aigw("up")
    assert ran.code == 130
    assert ran.err == (
        "aigw: interrupted; still starting in the background: llamacpp\n"
        "  'aigw status --watch' shows the progress; 'aigw down' stops everything\n"
    )


def test_ctrl_c_on_a_terminal_leaves_the_last_state_on_the_screen() -> None:
    ready = replace(starter("ready").backends[0], name="other")
    status = failed()
    status = replace(status, backends=[*status.backends, ready])
    lines = [line.plain for line in interrupted_lines(status, ["llamacpp", "other"], Look(width=80, plain=False))]
    assert [line.split()[0] for line in lines[:2]] == ["gateway", "llamacpp"]
    assert "  the model file is missing: /models/x.gguf" in lines
    assert lines[-1].split()[:3] == ["other", "●", "ready"]


FAR = BackendStatus(
    name="far",
    engine="openai",
    state="unreachable",
    managed=False,
    address="http://far:9",
    why="it refuses connections",
)


def test_an_unreachable_url_is_told_and_does_not_fail_a_profile_that_can_serve(aigw: Aigw, daemon: FakeDaemon) -> None:
    status = starter("ready", since_s=600)
    status = replace(status, backends=[*status.backends, FAR])
    daemon.answers("POST /v1/up", status)
    daemon.streams("GET /v1/watch", [status])
    ran = aigw("up")
    assert ran.code == 0
    assert "far  unreachable\n  it refuses connections\n" in ran.out
    assert ran.out.endswith("Next     aigw status   aigw logs llamacpp -f   aigw tail   aigw down\n")
    assert aigw("up", "--strict").code == 1
    assert aigw("up", "far").code == 1


def test_next_steps_of_a_url_that_aigw_does_not_run_are_not_its_log(aigw: Aigw, daemon: FakeDaemon) -> None:
    status = replace(starter("ready"), backends=[FAR])
    daemon.answers("POST /v1/up", status)
    daemon.streams("GET /v1/watch", [status])
    ran = aigw("up")
    assert (ran.code, ran.out[ran.out.index("Next") :]) == (1, "Next     aigw why far   aigw status\n")


def test_up_names_the_routes_and_says_that_answers_are_kept(aigw: Aigw, daemon: FakeDaemon) -> None:
    status = replace(starter("ready"), routes=["chat", "fast"], cache=CacheStatus(mode="on", ttl_s=3600))
    daemon.answers("POST /v1/up", status)
    daemon.streams("GET /v1/watch", [status])
    out = aigw("up").out
    assert "Routes   chat, fast\n" in out
    assert "Cache    answers, sampled ones too, are kept for 1h00m" in out
    assert "'x-aigw-cache: bypass' asks the engine, 'mode: off' keeps none" in out


@pytest.mark.parametrize("command", [["restart", "llamacpp"], ["up"], ["start"]])
def test_a_profile_that_was_edited_is_told(aigw: Aigw, daemon: FakeDaemon, command: list[str]) -> None:
    status = replace(starter("ready"), profile_file="/p/starter.yaml", profile_edited=True)
    daemon.answers(f"POST /v1/{'' if command == ['up'] else 'backends/'}{command[0]}", status)
    daemon.streams("GET /v1/watch", [status])
    assert "/p/starter.yaml has changed since it was loaded: 'aigw up' applies it\n" in aigw(*command).out


def test_a_daemon_that_ends_meanwhile_is_an_error(aigw: Aigw, daemon: FakeDaemon) -> None:
    daemon.answers("POST /v1/up", starter("starting"))
    daemon.streams("GET /v1/watch", [starter("starting")])
    ran = aigw("up")
    assert ran.code == 1
    assert ran.err == (
        "aigw: the connection to aigwd was lost\n"
        "  'aigw status' shows whether it runs, 'aigw logs daemon' its last messages\n"
    )


def test_foreground_takes_no_backends(aigw: Aigw) -> None:
    ran = aigw("up", "--foreground", "coder")
    assert ran.code == 2
    assert ran.err == (
        "aigw: --foreground starts all that the profile starts, not single backends\n"
        "  leave the names out, or leave --foreground out\n"
    )


def test_foreground_needs_the_place_of_the_daemon(aigw: Aigw, daemon: FakeDaemon) -> None:
    ran = aigw("up", "--foreground")
    assert ran.code == 1
    assert ran.err == (
        "aigw: a daemon is running already, in the background\n"
        "  'aigw down' stops it; without --foreground, 'aigw up' uses it\n"
    )


@pytest.mark.parametrize("verb", ["start", "restart"])
def test_start_and_restart_wait_for_ready(aigw: Aigw, daemon: FakeDaemon, verb: str) -> None:
    daemon.answers(f"POST /v1/backends/{verb}", starter("starting"))
    daemon.streams("GET /v1/watch", [starter("ready", since_s=600)])
    ran = aigw(verb, "llamacpp")
    assert ran.out == "llamacpp  ready\n\nllamacpp  ready  since 10m00s\n\n" + READY_SUMMARY
    assert daemon.asked[0].body["backends"] == ["llamacpp"]


def test_a_backend_that_somebody_else_stops_ends_the_waiting(aigw: Aigw, daemon: FakeDaemon) -> None:
    daemon.answers("POST /v1/backends/start", starter("starting"))
    daemon.streams("GET /v1/watch", [starter("stopping", wanted=False)])
    ran = aigw("start", "llamacpp")
    assert ran.code == 1
    assert ran.out == (
        "llamacpp  stopping\n\nllamacpp  stopping\nllamacpp: it was stopped meanwhile\n"
        "\nNext     aigw status   aigw up\n"
    )
    result = json.loads(aigw("start", "llamacpp", "--json").out.splitlines()[-1])
    assert (result["ok"], result["failed"], result["ended"]) == (False, [], ["llamacpp"])


def test_a_backend_that_was_ready_and_is_idle_again_is_no_failure(aigw: Aigw, daemon: FakeDaemon) -> None:
    idle = starter("stopped", wanted=False, parted=True, why="stopped after 5 s without a request")
    daemon.answers("POST /v1/up", starter("starting"))
    daemon.streams("GET /v1/watch", [idle])
    ran = aigw("up", "llamacpp")
    assert ran.code == 0
    assert "llamacpp  stopped\n  stopped after 5 s without a request; a request starts it\n" in ran.out


def test_a_down_in_another_shell_ends_the_waiting(aigw: Aigw, daemon: FakeDaemon) -> None:
    status = starter("starting")
    stopping = replace(status, daemon=replace(status.daemon, stopping=True))
    daemon.answers("POST /v1/up", status)
    daemon.streams("GET /v1/watch", [status, stopping])
    ran = aigw("up")
    assert (ran.code, ran.err.splitlines()[0]) == (
        1,
        "aigw: everything is being stopped: 'aigw down' was run meanwhile, or aigwd was told to end",
    )


def test_a_stop_that_another_command_undid_is_told(aigw: Aigw, daemon: FakeDaemon) -> None:
    daemon.answers("POST /v1/backends/stop", starter("starting"))
    ran = aigw("stop", "llamacpp")
    assert (ran.code, ran.err) == (1, "aigw: started again meanwhile by another command: llamacpp\n")


def test_stop_says_what_is_stopped(aigw: Aigw, daemon: FakeDaemon) -> None:
    daemon.answers("POST /v1/backends/stop", starter("stopped", pid=None))
    ran = aigw("stop", "llamacpp")
    assert (ran.code, ran.out) == (0, "llamacpp  stopped\n")
    assert json.loads(aigw("stop", "--json").out)["backends"][0]["state"] == "stopped"
    assert [asked.body for asked in daemon.asked] == [
        {"backends": ["llamacpp"], "now": False},
        {"backends": [], "now": False},
    ]


@pytest.mark.parametrize("verb", ["stop", "restart"])
def test_now_does_not_let_requests_finish(aigw: Aigw, daemon: FakeDaemon, verb: str) -> None:
    daemon.answers(f"POST /v1/backends/{verb}", starter("stopped"))
    daemon.streams("GET /v1/watch", [starter("ready")])
    assert aigw(verb, "--now").code == 0
    assert daemon.asked[0].body == {"backends": [], "now": True}


def test_down_shows_the_way_down_until_the_daemon_is_gone(aigw: Aigw, daemon: FakeDaemon) -> None:
    daemon.streams("POST /v1/down", [starter("ready"), starter("stopping"), starter("stopped"), LastWords()])
    ran = aigw("down")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == "llamacpp  stopping\nllamacpp  stopped\neverything is stopped\n"


def test_down_as_json_is_events_and_a_result(aigw: Aigw, daemon: FakeDaemon) -> None:
    daemon.streams("POST /v1/down", [starter("stopping"), LastWords()])
    lines = [json.loads(line) for line in aigw("down", "--json").out.splitlines()]
    assert lines == [
        {"event": "state", "backend": "llamacpp", "state": "stopping", "why": None},
        {"event": "result", "ok": True, "message": "everything is stopped"},
    ]


def test_an_unknown_backend_is_exit_code_4_with_the_names(aigw: Aigw, daemon: FakeDaemon) -> None:
    problem = Problem(
        code="unknown_backend",
        message="there is no backend 'lama' in the active profile",
        hint="choose from: llamacpp",
        details=["llamacpp"],
    )
    daemon.refuses("POST /v1/backends/start", problem, 404)
    ran = aigw("start", "lama")
    assert (ran.code, ran.out) == (4, "")
    assert ran.err == ("aigw: there is no backend 'lama' in the active profile\n  choose from: llamacpp\n")


def test_down_without_a_daemon_stops_what_it_left(aigw: Aigw, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "stop_all", lambda: "stopped llamacpp (PID 4713)")
    ran = aigw("down")
    assert (ran.code, ran.out, ran.err) == (0, "stopped llamacpp (PID 4713)\n", "")


def test_down_with_nothing_left_is_no_error(aigw: Aigw, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "stop_all", lambda: "")
    ran = aigw("down")
    assert (ran.code, ran.out) == (0, "aigwd was not running; no process of it is left\n")
