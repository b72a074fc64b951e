"""The other commands, each by its whole output."""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import cast

import pytest
from msgspec.structs import replace

from aigw_cli.failure import Interrupted
from aigw_cli.pulling import pull
from aigw_cli.render.health import health_lines
from aigw_cli.render.look import Look
from aigw_cli.render.tail import record_lines
from aigw_cli.screen import Screen
from aigw_daemon.control.client import ControlClient
from aigw_daemon.control.codec import plain
from aigw_daemon.control.schema import (
    HealthReport,
    Problem,
    ProfileInfo,
    PullEvent,
    PullRequest,
)
from aigw_daemon.home import Home
from aigw_daemon.lock import acquire
from tests.support.fake_daemon import Asked, ControlC, FakeDaemon
from tests.support.statuses import DAEMON, starter
from tests.unit.cli.conftest import Aigw

RECORD = {
    "event": "finished",
    "id": "r1",
    "at": 1_000_000_000.0,
    "model": "llama3.1:latest",
    "status": 200,
    "duration_ms": 1832.0,
    "backend": "ollama",
    "attempts": 1,
    "ttft_ms": 84.0,
    "prompt_tokens": 12,
    "completion_tokens": 210,
    "error": None,
}
FAILED_RECORD = RECORD | {
    "status": 503,
    "backend": None,
    "attempts": 2,
    "duration_ms": 3.14,
    "ttft_ms": None,
    "prompt_tokens": None,
    "completion_tokens": None,
    "error": "service_unavailable: nothing\x1b[2J answers",
}


class TestHealth:
    REPORT = HealthReport(
        status="degraded",
        providers={
            "ollama": {"engine": "ollama", "state": "ready", "models": ["a", "b"], "since": 1000.0, "why": None},
            "coder": {
                "engine": "vllm",
                "state": "failed",
                "models": [],
                "since": "1970-01-01T00:16:00+00:00",
                "why": "out of GPU memory",
            },
        },
        reasons=["coder failed: out of GPU memory"],
    )

    def test_it_tells_the_verdict_the_reasons_and_each_provider(self) -> None:
        text = "\n".join(
            line.plain.rstrip() for line in health_lines(self.REPORT, Look(width=100_000, plain=True), now=1045.0)
        )
        assert text == (
            "degraded\n"
            "  coder failed: out of GPU memory\n"
            "\n"
            "PROVIDER  ENGINE  STATE     FOR  MODELS\n"
            "ollama    ollama  ready     45s       2\n"
            "coder     vllm    failed  1m25s       0\n"
            "  out of GPU memory"
        )

    @pytest.mark.parametrize(("status", "code"), [("ok", 0), ("degraded", 1), ("unavailable", 1), ("news", 1)])
    def test_only_ok_is_exit_code_0(self, aigw: Aigw, daemon: FakeDaemon, status: str, code: int) -> None:
        daemon.answers("GET /v1/health", HealthReport(status=status))
        ran = aigw("health")
        assert (ran.code, ran.out) == (code, f"{status}\n")

    def test_json_is_the_report(self, aigw: Aigw, daemon: FakeDaemon) -> None:
        daemon.answers("GET /v1/health", self.REPORT)
        ran = aigw("health", "--json")
        assert json.loads(ran.out) == plain(self.REPORT)
        assert ran.code == 1


class TestLogs:
    def test_lines_are_shown_without_what_a_terminal_would_obey(self, aigw: Aigw, daemon: FakeDaemon) -> None:
        daemon.streams("GET /v1/logs/coder", ["\x1b[32mINFO\x1b[0m ready", "title \x1b]0;x\x07"])
        ran = aigw("logs", "coder", "-n", "2", "-f")
        assert ran.out == "INFO ready\ntitle \\x1b]0;x\\x07\n"
        assert daemon.asked == [Asked("GET", "/v1/logs/coder", {"lines": "2", "follow": "true"})]

    def test_json_is_one_line_per_object(self, aigw: Aigw, daemon: FakeDaemon) -> None:
        daemon.streams("GET /v1/logs/gateway", ["one", "two"])
        assert aigw("logs", "gateway", "--json").out == '{"line": "one"}\n{"line": "two"}\n'

    def test_the_daemons_own_log_needs_no_daemon(self, aigw: Aigw, home: Home) -> None:
        home.prepare()
        home.daemon_log.write_text("first\nsecond\nthird\n")
        ran = aigw("logs", "daemon", "-n", "2")
        assert (ran.code, ran.out) == (0, "second\nthird\n")

    @pytest.mark.parametrize("name", ["coder", "daemon"])
    def test_without_a_daemon_and_a_log_it_is_exit_code_3(self, aigw: Aigw, name: str) -> None:
        ran = aigw("logs", name)
        assert (ran.code, ran.err) == (3, "aigw: aigwd is not running\n  'aigw up' starts it\n")


class TestPull:
    def test_it_shows_steps_and_where_the_model_is(self, aigw: Aigw, daemon: FakeDaemon) -> None:
        daemon.streams(
            "POST /v1/pull",
            [
                PullEvent(phase="downloading", model="m", done_bytes=5, total_bytes=10),
                PullEvent(phase="downloading", model="m", done_bytes=5, total_bytes=10),
                PullEvent(phase="done", model="m", path="/models/m.gguf"),
            ],
        )
        ran = aigw("pull", "https://example.org/m.gguf", "--sha256", "ab", "--name", "m")
        assert (ran.code, ran.out) == (0, "m: 50 % of 10B\nm is here: /models/m.gguf\n")
        body = daemon.asked[0].body
        assert body is not None
        assert (body["model"], body["sha256"], body["name"]) == ("https://example.org/m.gguf", "ab", "m")
        assert (body["backend"], body["insecure"]) == (None, False)

    def test_a_pull_through_an_ollama_sends_the_name_as_it_is(self, aigw: Aigw, daemon: FakeDaemon) -> None:
        daemon.streams("POST /v1/pull", [PullEvent(phase="done", model="m:latest")])
        ran = aigw("pull", "./m", "--backend", "ollama", "--insecure")
        assert (ran.code, ran.out) == (0, "m:latest is here\n")
        body = daemon.asked[0].body
        assert body is not None
        assert (body["model"], body["backend"], body["insecure"]) == ("./m", "ollama", True)

    @pytest.mark.parametrize(
        "options",
        [
            ["m", "--backend", "ollama"],
            ["https://example.org/a b.gguf", "--sha256", "b179c952" * 8, "--name", "tiny", "--profile", "team"],
            ["r/m", "--backend", "ollama", "--insecure"],
        ],
    )
    def test_an_interrupted_pull_says_the_command_that_resumes_it_with_all_its_options(
        self, aigw: Aigw, daemon: FakeDaemon, options: list[str]
    ) -> None:
        daemon.streams("POST /v1/pull", [PullEvent(phase="resolving", model="m"), ControlC()])
        told = aigw("pull", *options).err.splitlines()[-1]
        assert sorted(shlex.split(told)) == sorted(["aigw", "pull", *options])
        first = daemon.asked[-1].body
        aigw(*shlex.split(told)[1:])
        assert daemon.asked[-1].body == first

    @pytest.mark.parametrize(("resumable", "hint"), [(True, "to resume:"), (False, "to start from the beginning:")])
    def test_an_interrupted_pull_says_whether_it_can_be_resumed(self, resumable: bool, hint: str) -> None:
        class Client:
            def pull(self, _request: PullRequest) -> Iterator[PullEvent]:
                yield PullEvent(phase="downloading", model="m", resumable=resumable)
                raise KeyboardInterrupt

        with pytest.raises(Interrupted) as interrupted:
            pull(cast(ControlClient, Client()), Screen(out=StringIO()), PullRequest(model="m"))
        assert (interrupted.value.hint, interrupted.value.command) == (hint, "aigw pull m")

    def test_a_model_that_is_there_is_said_so(self, aigw: Aigw, daemon: FakeDaemon) -> None:
        daemon.streams("POST /v1/pull", [PullEvent(phase="done", model="m", already=True)])
        assert aigw("pull", "m").out == "m is already there\n"

    def test_a_failed_pull_tells_the_problem(self, aigw: Aigw, daemon: FakeDaemon) -> None:
        problem = Problem(code="checksum", message="m has the checksum cd, not ab", hint="fetch it again")
        daemon.streams("POST /v1/pull", [PullEvent(phase="failed", model="m", error=problem)])
        ran = aigw("pull", "m")
        assert (ran.code, ran.out) == (1, "")
        assert ran.err == "aigw: m has the checksum cd, not ab\n  fetch it again\n"

    def test_a_pull_that_breaks_off_is_an_error(self, aigw: Aigw, daemon: FakeDaemon) -> None:
        daemon.streams("POST /v1/pull", [PullEvent(phase="resolving", model="m")])
        ran = aigw("pull", "m")
        assert (ran.code, ran.err) == (1, "aigw: the pull of m was cut off\n  'aigw logs daemon' may say why\n")

    def test_ctrl_c_cancels_it(self, aigw: Aigw, daemon: FakeDaemon) -> None:
        daemon.streams("POST /v1/pull", [PullEvent(phase="downloading", model="m"), ControlC()])
        ran = aigw("pull", "m")
        assert ran.code == 130
        assert ran.err == "aigw: interrupted: the pull is cancelled\n  to start from the beginning:\n  aigw pull m\n"

    @pytest.mark.parametrize(
        ("typed", "told"),
        [
            ("./m.gguf", "file:/usr/m.gguf"),
            ("file:m.gguf", "file:/usr/m.gguf"),
            ("file:///m.gguf", "file:///m.gguf"),
            ("m", "m"),
        ],
    )
    def test_a_file_is_told_by_its_absolute_path(
        self, aigw: Aigw, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, typed: str, told: str
    ) -> None:
        monkeypatch.chdir("/usr")
        daemon.streams("POST /v1/pull", [PullEvent(phase="done", model="m")])
        aigw("pull", typed)
        assert daemon.asked[0].body["model"] == told


class TestProfile:
    PROFILES = [  # noqa: RUF012  # a test's example, never changed
        ProfileInfo(name="starter", path="/p/starter.yaml", description="One small model on the CPU", active=True),
        ProfileInfo(name="mine", path="/p/mine.yaml", problems=[f"mine.yaml:{n}:1: wrong" for n in range(1, 6)]),
    ]

    def test_list_shows_what_can_be_used(self, aigw: Aigw, daemon: FakeDaemon) -> None:
        daemon.answers("GET /v1/profiles", self.PROFILES)
        assert aigw("profile", "list").out == (
            "NAME     ACTIVE  STATE    FILE\n"
            "starter  active  ok       /p/starter.yaml\n"
            "  One small model on the CPU\n"
            "mine     -       invalid  /p/mine.yaml\n"
            "  mine.yaml:1:1: wrong\n"
            "  mine.yaml:2:1: wrong\n"
            "  mine.yaml:3:1: wrong\n"
            "  and 2 more: 'aigw profile validate mine'\n"
        )
        assert json.loads(aigw("profile", "list", "--json").out)[0]["active"] is True

    def test_list_works_without_a_daemon(self, aigw: Aigw, home: Home) -> None:
        home.prepare()
        (home.profiles / "mine.yaml").write_text("version: 1\ndescription: My own\nbackends: {}\n")
        ran = aigw("profile", "list")
        assert ran.code == 0
        assert re.search(r"^mine +- +\w+ +/.*/mine.yaml$", ran.out, re.MULTILINE)

    def test_use_waits_until_the_new_profile_is_ready(self, aigw: Aigw, daemon: FakeDaemon) -> None:
        daemon.answers("POST /v1/profile", starter("starting"))
        daemon.streams("GET /v1/watch", [starter("ready", since_s=600)])
        ran = aigw("profile", "use", "starter")
        assert (ran.code, ran.out.splitlines()[2]) == (0, "llamacpp  ready  since 10m00s")
        assert daemon.asked[0].body == {"profile": "starter"}

    def test_use_of_an_unknown_profile_is_exit_code_4(self, aigw: Aigw, daemon: FakeDaemon) -> None:
        daemon.refuses("POST /v1/profile", Problem(code="unknown_profile", message="there is no profile 'x'"), 404)
        assert aigw("profile", "use", "x").code == 4

    def test_use_of_an_invalid_profile_shows_every_problem(self, aigw: Aigw, daemon: FakeDaemon) -> None:
        details = ["x.yaml:2:3: backends.a.prot: unknown key", "x.yaml:3:3: backends.b: no engine"]
        problem = Problem(code="invalid_profile", message="profile x is invalid", details=details)
        daemon.refuses("POST /v1/profile", problem, 422)
        ran = aigw("profile", "use", "x")
        assert ran.code == 5
        assert ran.err == "aigw: profile x is invalid\n" + "".join(f"  {line}\n" for line in details)

    def test_a_valid_profile_is_told_with_what_it_has(self, aigw: Aigw, tmp_path: Path) -> None:
        file = tmp_path / "one.yaml"
        file.write_text("version: 1\nbackends:\n  a:\n    engine: ollama\n    attach: http://127.0.0.1:1\n")
        assert aigw("profile", "validate", str(file)).out == f"{file} is valid: 1 backend, 0 routes\n"

    def test_validate_needs_no_daemon_and_tells_all_errors_at_once(self, aigw: Aigw, tmp_path: Path) -> None:
        file = tmp_path / "broken.yaml"
        file.write_text("version: 1\nbackends:\n  a: {engine: llamacpp, prot: 1}\n  b: {engine: wllm}\n")
        ran = aigw("profile", "validate", str(file))
        assert ran.code == 5
        head, *problems, hint = ran.err.splitlines()
        assert head == "aigw: the profile is invalid"
        assert {line.split(":")[1] for line in problems} >= {"3", "4"}
        assert hint == "  fix the file, then check it with 'aigw profile validate FILE'"

    def test_a_file_that_is_not_there_is_exit_code_4(self, aigw: Aigw) -> None:
        ran = aigw("profile", "validate", "/nowhere/x.yaml")
        assert ran.code == 4
        assert "there is no such file" in ran.err

    def test_show_prints_the_file(self, aigw: Aigw, tmp_path: Path) -> None:
        file = tmp_path / "mine.yaml"
        file.write_text("version: 1\n# \x1b[2J\n")
        assert aigw("profile", "show", str(file)).out == f"# {file}\nversion: 1\n# \\x1b[2J\n"
        assert json.loads(aigw("profile", "show", str(file), "--json").out)["name"] == "mine"


class TestTail:
    def test_one_line_per_finished_request(
        self, aigw: Aigw, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TZ", "UTC")
        daemon.answers("GET /v1/status", starter("ready"))
        daemon.streams("GET /v1/tail", [{"event": "started", "id": "r1"}, RECORD, FAILED_RECORD])
        head, *lines = aigw("tail").out.splitlines()
        assert head == "TIME      STATUS  MODEL                     BACKEND          FIRST   TOTAL     TOKENS  ERROR"
        assert [line[8:] for line in lines] == [
            "     200  llama3.1:latest           ollama            84ms    1.8s     12+210",
            (
                "     503  llama3.1:latest           - (2)                -   3.1ms          -"
                "  service_unavailable: nothing\\x1b[2J answers"
            ),
        ]

    def test_json_is_every_event(self, aigw: Aigw, daemon: FakeDaemon) -> None:
        events = [{"event": "started", "id": "r1"}, RECORD]
        daemon.streams("GET /v1/tail", events)
        lines = [json.loads(line) for line in aigw("tail", "--json").out.splitlines()]
        assert lines[:2] == events
        assert lines[2]["error"]["code"] == "connection_lost"

    @pytest.mark.usefixtures("home")
    def test_without_a_daemon_there_are_no_titles(self, aigw: Aigw) -> None:
        ran = aigw("tail")
        assert (ran.code, ran.out) == (3, "")

    def test_on_a_screen_the_error_stands_below(self) -> None:
        lines = record_lines(FAILED_RECORD, Look(width=60, plain=False))
        assert [len(line.plain) <= 60 for line in lines] == [True, True]
        assert lines[1].plain == "          service_unavailable: nothing\\x1b[2J answers"


def test_daemon_restart_waits_for_the_new_program(aigw: Aigw, daemon: FakeDaemon) -> None:
    old = starter("ready")
    daemon.answers("GET /v1/status", old)
    daemon.answers("GET /v1/status", old)
    daemon.answers("GET /v1/status", replace(old, daemon=replace(DAEMON, uptime_s=0.0)))
    daemon.answers("POST /v1/daemon/restart", {})
    ran = aigw("daemon", "restart")
    assert (ran.code, ran.out) == (0, "aigwd 0.1.0 took over (PID 4711); engines and gateway kept running\n")
    assert [asked.path for asked in daemon.asked] == ["/v1/status", "/v1/daemon/restart", "/v1/status", "/v1/status"]


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (("status", "--watch"), "/v1/watch"),
        (("tail",), "/v1/tail"),
        (("logs", "coder", "-f"), "/v1/logs/coder"),
    ],
)
def test_a_daemon_that_ends_while_somebody_watches_is_told(
    aigw: Aigw, daemon: FakeDaemon, arguments: tuple[str, ...], path: str
) -> None:
    daemon.answers("GET /v1/status", starter("ready"))
    daemon.streams(f"GET {path}", [])
    ran = aigw(*arguments)
    assert ran.code == 1
    assert ran.err == (
        "aigw: the connection to aigwd was lost\n"
        "  'aigw status' shows whether it runs, 'aigw logs daemon' its last messages\n"
    )


@pytest.mark.parametrize(
    ("script", "usage"),
    [
        ("test-routing.sh", "Usage: aigw test-routing [OPTIONS] {MODEL}"),
        ("tail-requests.py", "Usage: aigw tail [OPTIONS]"),
    ],
)
def test_the_debugging_scripts_call_the_command(script: str, usage: str) -> None:
    program = Path(__file__).resolve().parents[3] / "scripts" / "debugging" / script
    done = subprocess.run([str(program), "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(usage)


class TestProfileUseWithoutADaemon:
    def test_the_choice_is_kept_for_the_next_up(self, aigw: Aigw, home: Home) -> None:
        home.prepare()
        mine = home.profiles / "mine.yaml"
        mine.write_text("version: 1\nbackends:\n  far: {engine: openai, url: http://127.0.0.1:9/v1}\n")
        home.state_file.write_text('{"version": 1, "instance": "abc", "profile": "/other.yaml", "serving": true}')
        (home.state / "instance").write_text("abc\n")
        ran = aigw("profile", "use", "mine")
        assert (ran.code, ran.err) == (0, "")
        assert ran.out == "the profile is chosen: 'aigw up' starts it\n"
        kept = json.loads(home.state_file.read_text())
        assert (kept["profile"], kept["instance"], kept["serving"]) == (str(mine), "abc", True)
        assert json.loads(aigw("profile", "use", "mine", "--json").out)["ok"] is True

    @pytest.mark.parametrize(("name", "code"), [("nosuch", 4), ("broken", 5)])
    def test_what_cannot_be_used_changes_nothing(self, aigw: Aigw, home: Home, name: str, code: int) -> None:
        home.prepare()
        (home.profiles / "broken.yaml").write_text("backends: 3\n")
        assert aigw("profile", "use", name).code == code
        assert not home.state_file.exists()

    def test_a_daemon_that_holds_the_lock_is_not_overruled(self, aigw: Aigw, home: Home) -> None:
        home.prepare()
        lock = acquire(home.lock)
        ran = aigw("profile", "use", "starter")
        os.close(lock)
        assert ran.code == 1
        assert f"another aigwd (PID {os.getpid()}) is running" in ran.err
        assert not home.state_file.exists()
