"""`aigw test-routing`: what is shown of the router's decision, in a pipe."""

import json

import pytest
from msgspec.structs import replace

from aigw_daemon.control.codec import plain
from aigw_daemon.control.schema import CandidateInfo, HopLimits, RouteAnswer, RouteParameters
from tests.support.fake_daemon import FakeDaemon
from tests.unit.cli.conftest import Aigw


class TestRouting:
    ANSWER = RouteAnswer(
        model="qwen",
        matched="route",
        candidates=[
            CandidateInfo(backend="coder", model="qwen-vllm", kept=False, reason="assumed down"),
            CandidateInfo(backend="ollama", model="qwen2.5:7b", kept=True, reason="ready"),
        ],
    )

    def test_it_lists_what_would_be_tried_in_order(self, aigw: Aigw, daemon: FakeDaemon) -> None:
        daemon.answers("POST /v1/route", self.ANSWER)
        ran = aigw("test-routing", "qwen", "--assume-down", "coder")
        assert ran.out == (
            "qwen  matched by its route\n"
            "\n"
            "TRY  BACKEND  MODEL       REASON\n"
            "  1  ollama   qwen2.5:7b  ready\n"
            "\n"
            "1 skipped: --explain shows why\n"
        )
        assert daemon.asked[0].body == {
            "model": "qwen", "endpoint": "chat/completions", "needs": [], "assume_down": ["coder"],
        }  # fmt: skip
        assert json.loads(aigw("test-routing", "qwen", "--json").out) == plain(self.ANSWER)

    def test_explain_shows_what_was_skipped(self, aigw: Aigw, daemon: FakeDaemon) -> None:
        daemon.answers("POST /v1/route", self.ANSWER)
        assert "  -  coder    qwen-vllm   assumed down\n" in aigw("test-routing", "qwen", "--explain").out

    def test_nothing_left_is_exit_code_1_with_every_reason(self, aigw: Aigw, daemon: FakeDaemon) -> None:
        daemon.answers("POST /v1/route", replace(self.ANSWER, candidates=self.ANSWER.candidates[:1]))
        ran = aigw("test-routing", "qwen")
        assert ran.code == 1
        assert ran.out.endswith(
            "assumed down\n\nno candidate can answer, for the reasons above; 'aigw why BACKEND' explains one\n"
        )

    def test_an_unknown_model_is_exit_code_4_with_the_nearest_names(self, aigw: Aigw, daemon: FakeDaemon) -> None:
        daemon.answers("POST /v1/route", RouteAnswer(model="lama", nearest=["llama3.1:latest"]))
        ran = aigw("test-routing", "lama")
        assert ran.code == 4
        assert ran.err == (
            "aigw: no route, backend or pattern knows the model 'lama'\n"
            "  did you mean llama3.1:latest? 'aigw status --models' lists every name\n"
        )
        assert aigw("test-routing", "lama", "--json").code == 4


class TestRoutingInFull:
    COLD = HopLimits(
        in_flight=0, max_concurrency=30, waiting=0, max_queue=100, cold_timeout=600, last_start_s=72, gap_timeout=60
    )
    ANSWER = RouteAnswer(
        model="code",
        matched="pattern",
        route="c*",
        endpoint="completions",
        candidates=[
            CandidateInfo(backend="coder", model="q", kept=True, cold=True, reason="stopped", limits=COLD),
            CandidateInfo(backend="ollama", model="q:7b", kept=True, reason="ready", fallback=True, weight=3,
                          limits=HopLimits(in_flight=2, first_token_timeout=300)),
            CandidateInfo(backend="-", model="z", kept=False, reason="no backend lists it"),
        ],
        cold="bridge",
        overflow="spill",
        balance="weighted",
        parameters=RouteParameters(defaults={"temperature": 0.2}, override={"stop": ["a\x1b"]}, drop=["user", "seed"]),
        on_context_overflow=[CandidateInfo(backend="cloud", model="long", kept=False, reason="unreachable")],
        request_timeout=600,
        max_attempts=3,
        queue_timeout=60,
        warnings=["cloud no longer offers long, which the route 'c*' asks it for"],
    )  # fmt: skip

    def test_without_explain_it_says_what_a_request_would_wait_for(self, aigw: Aigw, daemon: FakeDaemon) -> None:
        daemon.answers("POST /v1/route", self.ANSWER)
        ran = aigw("test-routing", "code", "--endpoint", "completions", "--needs", "tools, vision")
        assert ran.code == 0
        assert ran.out == (
            "code  matched by the pattern c*, for completions\n"
            "\n"
            "TRY  BACKEND  MODEL  REASON\n"
            "  1  coder    q      stopped\n"
            "  2  ollama   q:7b   ready (fallback)\n"
            "\n"
            "coder  last start took 1m12s · a request waits up to 10m00s for it\n"
            "\n"
            "warning: cloud no longer offers long, which the route 'c*' asks it for\n"
            "\n"
            "1 skipped: --explain shows why\n"
        )
        assert daemon.asked[0].body == {
            "model": "code", "endpoint": "completions", "needs": ["tools", "vision"], "assume_down": [],
        }  # fmt: skip

    def test_with_explain_it_says_every_limit_and_setting(self, aigw: Aigw, daemon: FakeDaemon) -> None:
        daemon.answers("POST /v1/route", self.ANSWER)
        told = aigw("test-routing", "code", "--explain").out.split("\n\n")[2]
        limits = (
            "coder     last start took 1m12s · a request waits up to 10m00s for it · 0 of 30 slots in use"
            " · 0 of 100 waiting · no first-token limit while the engine is computing · at most 1m00s between tokens"
        )
        assert told.splitlines() == [
            limits,
            "ollama    2 in flight, no limit · first token within 5m00s",
            "request   10m00s in total · at most 3 attempts · at most 1m00s in a queue",
            "balance   by weight: coder 1",
            "cold      while one starts, the next candidate answers",
            "full      a full backend passes the request on to the next candidate at once",
            'fields    temperature = 0.2 unless the request sets it · stop = ["a\\u001b"] always · without user, seed',
            "too long  overlong prompts go to long at cloud (skipped: unreachable)",
        ]

    def test_an_open_circuit_is_the_first_thing_said(self, aigw: Aigw, daemon: FakeDaemon) -> None:
        broken = CandidateInfo(
            backend="a", model="m", kept=True, reason="r", limits=HopLimits(circuit="5 failures in a row")
        )
        daemon.answers("POST /v1/route", RouteAnswer(model="m", matched="listed", candidates=[broken]))
        assert "\na  circuit open: 5 failures in a row · 0 in flight" in aigw("test-routing", "m", "--explain").out

    def test_an_endpoint_that_nobody_speaks_names_the_models_that_do(self, aigw: Aigw, daemon: FakeDaemon) -> None:
        mute = CandidateInfo(backend="a", model="m", kept=False, reason="does not")
        answer = RouteAnswer(model="m", matched="listed", endpoint="rerank", candidates=[mute], instead=["bge", "jina"])
        daemon.answers("POST /v1/route", answer)
        daemon.answers("POST /v1/route", replace(answer, instead=[]))
        ran = aigw("test-routing", "m", "--endpoint", "rerank")
        assert ran.code == 1
        assert ran.out.endswith("\n\nno candidate supports rerank; models that do: bge, jina\n")
        ran = aigw("test-routing", "m", "--endpoint", "rerank")
        assert ran.out.endswith("\n\nno candidate supports rerank, and no other model of the profile does\n")

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (("--endpoint", "images"), "'--endpoint': 'images' is not one of"),
            (("--needs", "smell"), "unknown need 'smell'"),
        ],
    )
    def test_what_cannot_be_asked_for_is_exit_code_2(
        self, aigw: Aigw, daemon: FakeDaemon, arguments: tuple[str, str], says: str
    ) -> None:
        ran = aigw("test-routing", "m", *arguments)
        assert (ran.code, daemon.asked) == (2, [])
        assert says in ran.err
