"""`aigw status`: the whole screen, as plain text, on terminals of several widths, and as JSON."""

import json
import os

import msgspec
import pytest
from msgspec.structs import replace
from rich.console import Console

from aigw_cli.render.look import Look
from aigw_cli.render.status import status_lines
from aigw_daemon.control.codec import plain
from aigw_daemon.control.schema import GatewayStatus, LoadedModel, NameInfo, Status
from aigw_daemon.home import Home
from aigw_daemon.identity import Identity, boot_id, start_ticks
from aigw_daemon.state_file import BackendRecord, Document
from tests.support.fake_daemon import ControlC, FakeDaemon
from tests.support.statuses import DAEMON, starter, workstation
from tests.unit.cli.conftest import Aigw

PLAIN = """\
profile  workstation
gateway  ready  http://127.0.0.1:4000  PID 4712
daemon   PID 4711  version 0.1.0  up 1d02h

NAME     ENGINE  STATE       PID  ADDRESS          GPU  MEMORY  MODELS                                                                UPTIME  RESTARTS  IN-FLIGHT
ollama   ollama  ready     20711  127.0.0.1:11434  -    812MiB  llama3.1:latest,qwen2.5-coder:7b,nomic-embed-text:latest,gpt-oss:20b   2h05m         0          3
coder    vllm    starting  20935  127.0.0.1:8001   0    5.4GiB  -                                                                          -         0          0
  | Loading safetensors checkpoint shards: 50% Completed
dolphin  vllm    failed        -  -                0         -  -                                                                          -         3          0
  out of GPU memory: 18.2 GiB asked, 9.1 GiB free
  | torch.OutOfMemoryError: CUDA out of memory.\\x1b[2J\\x07
"""  # noqa: E501  # plain text has no width

AT_80 = """\
profile  workstation
gateway  ● ready  http://127.0.0.1:4000  PID 4712
daemon   PID 4711  version 0.1.0  up 1d02h

NAME     ENGINE  STATE         PID  GPU  MEMORY  UPTIME  RESTARTS  IN-FLIGHT
ollama   ollama  ● ready     20711  -    812MiB   2h05m         0          3
  127.0.0.1:11434
  llama3.1:latest, qwen2.5-coder:7b, nomic-embed-text:latest +1
coder    vllm    ◐ starting  20935  0    5.4GiB       -         0          0
  127.0.0.1:8001
  | Loading safetensors checkpoint shards: 50% Completed
dolphin  vllm    ✗ failed        -  0         -       -         3          0
  out of GPU memory: 18.2 GiB asked, 9.1 GiB free
  | torch.OutOfMemoryError: CUDA out of memory.\\x1b[2J\\x07
"""

AT_60 = """\
profile  workstation
gateway  ● ready  http://127.0.0.1:4000  PID 4712
daemon   PID 4711  version 0.1.0  up 1d02h

NAME     STATE       MEMORY  UPTIME  RESTARTS  IN-FLIGHT
ollama   ● ready     812MiB   2h05m         0          3
  ollama · PID 20711 · 127.0.0.1:11434
  llama3.1:latest, qwen2.5-coder:7b, nomic-embed-text:latest
  +1
coder    ◐ starting  5.4GiB       -         0          0
  vllm · PID 20935 · 127.0.0.1:8001
  | Loading safetensors checkpoint shards: 50% Completed
dolphin  ✗ failed         -       -         3          0
  vllm
  out of GPU memory: 18.2 GiB asked, 9.1 GiB free
  | torch.OutOfMemoryError: CUDA out of memory.\\x1b[2J\\x07
"""


def drawn(status: Status, width: int, version: str = "0.1.0") -> str:
    """What stands on a terminal of this width, without its colours."""
    console = Console(width=width, markup=False, highlight=False, color_system=None)
    with console.capture() as captured:
        for line in status_lines(status, Look(width=width, plain=False), version):
            console.print(line, no_wrap=line.no_wrap, overflow=line.overflow)
    return "".join(line.rstrip() + "\n" for line in captured.get().splitlines())


def test_plain_text_has_every_column_and_cuts_nothing(aigw: Aigw, daemon: FakeDaemon) -> None:
    daemon.answers("GET /v1/status", workstation())
    ran = aigw("status")
    assert ran.out == PLAIN
    assert (ran.code, ran.err) == (0, "")


def test_plain_text_names_some_of_thousands_of_models(aigw: Aigw, daemon: FakeDaemon) -> None:
    daemon.answers("GET /v1/status", starter("ready", models=[f"model-{number}" for number in range(5000)]))
    line = aigw("status").out.splitlines()[-1]
    names = next(field for field in line.split() if field.startswith("model-")).split(",")
    assert names == [*(f"model-{number}" for number in range(20)), "+4980"]
    daemon.answers("GET /v1/status", starter("ready", models=[f"model-{number}" for number in range(5000)]))
    assert len(json.loads(aigw("status", "--json").out)["backends"][0]["models"]) == 5000


@pytest.mark.parametrize("look", [Look(width=40, plain=False), Look(width=160, plain=False), Look(10**6, plain=True)])
def test_failed_backend_shows_the_line_that_gives_it_away(look: Look) -> None:
    lines = ["E: the cause", *(f"E: and so on {number}" for number in range(10))]
    status = starter("failed", why="it ran out of memory", log_tail=lines, telling="E: the cause")
    shown = [line.plain for line in status_lines(status, look, "0.1.0") if line.plain.startswith("  | ")]
    assert shown == ["  | E: the cause"]
    unknown = starter("failed", why="it exited", log_tail=lines)
    shown = [line.plain for line in status_lines(unknown, look, "0.1.0") if line.plain.startswith("  | ")]
    assert shown == [f"  | {line}" for line in lines[-4:]]


@pytest.mark.parametrize(("width", "screen"), [(80, AT_80), (60, AT_60)])
def test_what_does_not_fit_moves_below_its_row(width: int, screen: str) -> None:
    assert drawn(workstation(), width) == screen


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_no_line_is_wider_than_the_screen(width: int) -> None:
    assert max(len(line) for line in drawn(workstation(), width).splitlines()) <= width


def test_a_daemon_of_another_version_is_pointed_out() -> None:
    assert "this aigw is 0.2.0: 'aigw daemon restart' updates the daemon" in drawn(starter("ready"), 100, "0.2.0")


def test_a_stale_backend_says_how_to_renew_it() -> None:
    screen = drawn(starter("ready", stale=True), 100)
    assert "running with settings that differ from the profile's: 'aigw restart llamacpp' applies them" in screen


def test_a_crashing_gateway_says_why() -> None:
    gateway = GatewayStatus(url=None, state="backoff", why="it crashed 5 times in 60 s", restarts=5)
    screen = drawn(starter("ready", gateway=gateway), 100)
    assert "gateway  ◐ backoff  5 restarts\n         it crashed 5 times in 60 s\n" in screen


def test_no_profile_and_no_backends_are_said_so() -> None:
    idle = Status(profile=None, daemon=DAEMON, gateway=GatewayStatus(url=None, state="stopped"), backends=[])
    assert drawn(idle, 80) == (
        "profile  none is active\n"
        "gateway  ○ stopped\n"
        "daemon   PID 4711  version 0.1.0  up 1d02h\n"
        "\n"
        "no backends: no profile is active; 'aigw up' runs one\n"
    )
    empty = Status(profile="mine", daemon=DAEMON, gateway=GatewayStatus(url=None, state="stopped"), backends=[])
    assert drawn(empty, 80).endswith("\nno backends: the profile declares none\n")


def test_json_is_the_contract(aigw: Aigw, daemon: FakeDaemon) -> None:
    daemon.answers("GET /v1/status", starter("ready"))
    document = json.loads(aigw("status", "--json").out)
    assert document["profile"] == "starter"
    daemon_facts = {"pid": 4711, "version": "0.1.0", "uptime_s": 93784.5, "stopping": False, "warnings": []}
    assert document["daemon"] == daemon_facts
    assert document["gateway"].items() >= {"url": "http://127.0.0.1:4000", "state": "ready", "pid": 4712}.items()
    named = [
        "name",
        "engine",
        "state",
        "pid",
        "address",
        "gpus",
        "memory_bytes",
        "models",
        "uptime_s",
        "restarts",
        "in_flight",
        "why",
    ]
    assert set(named) <= set(document["backends"][0])


def test_json_keeps_a_state_that_this_version_does_not_know(aigw: Aigw, daemon: FakeDaemon) -> None:
    newer = plain(starter("ready"))
    newer["backends"][0]["state"] = "migrating"
    daemon.answers("GET /v1/status", newer)
    assert json.loads(aigw("status", "--json").out)["backends"][0]["state"] == "migrating"
    assert "llamacpp  llamacpp  migrating" in aigw("status").out


def test_watching_as_json_is_one_status_per_line(aigw: Aigw, daemon: FakeDaemon) -> None:
    daemon.streams("GET /v1/watch", [starter("starting"), starter("ready")])
    lines = aigw("status", "--watch", "--json").out.splitlines()
    assert [json.loads(line)["backends"][0]["state"] for line in lines[:2]] == ["starting", "ready"]


def test_watching_in_plain_text_prints_one_block_per_change(aigw: Aigw, daemon: FakeDaemon) -> None:
    daemon.streams("GET /v1/watch", [starter("starting"), starter("ready")])
    out = aigw("status", "--watch").out
    assert out.count("profile  starter\n") == 2
    assert out.endswith("\n\n")


def test_what_a_later_daemon_would_suffer_from_stands_below_the_daemon() -> None:
    status = replace(starter("ready"), daemon=replace(DAEMON, warnings=["disk full"]))
    assert "\ndaemon   PID 4711  version 0.1.0  up 1d02h\n         disk full\n" in drawn(status, 80)


def test_ctrl_c_ends_watching_with_130(aigw: Aigw, daemon: FakeDaemon) -> None:
    daemon.streams("GET /v1/watch", [starter("ready"), ControlC()])
    ran = aigw("status", "--watch", "--json")
    assert (ran.code, ran.err) == (130, "")


def test_without_a_daemon_it_says_how_to_start_one(aigw: Aigw) -> None:
    ran = aigw("status")
    assert (ran.code, ran.out) == (3, "")
    assert ran.err == "aigw: aigwd is not running\n  'aigw up' starts it\n"


def living() -> Identity:
    """Of a process that runs: this one."""
    pid = os.getpid()
    return Identity(pid, start_ticks(pid) or 0, boot_id(), os.getpgrp(), "c00c1e")


def test_without_a_daemon_it_says_what_still_runs_and_what_becomes_of_it(aigw: Aigw, home: Home) -> None:
    own, ended = living(), msgspec.structs.replace(living(), start_ticks=1)
    backends = {"coder": BackendRecord(identity=own), "dead": BackendRecord(identity=ended), "idle": BackendRecord()}
    home.prepare()
    home.state_file.write_bytes(msgspec.json.encode(Document("c00c1e", gateway=own, backends=backends)))
    pid = os.getpid()
    assert aigw("status").err == (
        "aigw: aigwd is not running\n"
        f"  still running without it: gateway (PID {pid}), coder (PID {pid})\n"
        "  'aigw up' starts it and adopts them; 'aigw down' stops them\n"
    )


@pytest.mark.parametrize("content", [b"", b"{", b'{"instance": 3}', b"\xff", b'{"instance": "\xff"}'])
def test_a_torn_state_file_says_nothing_of_what_still_runs(aigw: Aigw, home: Home, content: bytes) -> None:
    home.prepare()
    home.state_file.write_bytes(content)
    assert aigw("status").err == "aigw: aigwd is not running\n  'aigw up' starts it\n"
    assert home.state_file.read_bytes() == content


def test_without_a_daemon_json_is_an_error_document(aigw: Aigw) -> None:
    ran = aigw("status", "--json")
    assert (ran.code, ran.err) == (3, "")
    assert json.loads(ran.out) == {
        "error": {
            "code": "daemon_not_running",
            "message": "aigwd is not running",
            "hint": "'aigw up' starts it",
            "details": [],
        }
    }


def test_models_in_memory_stand_below_their_ollama_with_their_share_of_the_gpu() -> None:
    ollama, *others = workstation().backends
    loaded = [
        LoadedModel(name="llama3.1:latest", memory_bytes=6 * 2**30, gpu_memory_bytes=5 * 2**30, context=8192),
        LoadedModel(name="bad\x1b[2J", memory_bytes=2**30, gpu_memory_bytes=0),
    ]
    status = replace(workstation(), backends=[replace(ollama, loaded=loaded), *others])
    screen = drawn(status, 80)
    assert "\n  loaded llama3.1:latest 6.0GiB, 5.0GiB on GPU, context 8192\n" in screen
    assert "\n  loaded bad\\x1b[2J 1.0GiB, on the CPU\n" in screen
    assert plain(status)["backends"][0]["loaded"][0]["gpu_memory_bytes"] == 5 * 2**30


NAMES = [
    NameInfo(name="chat", kind="route", backends=["coder", "ollama"], state="ready"),
    NameInfo(name="talk\x1b[2J", kind="alias", backends=["coder"], state="stopped", alias_of="chat"),
    NameInfo(name="gpt-*", kind="pattern"),
]


def test_models_are_all_names_with_their_backends_and_states(aigw: Aigw, daemon: FakeDaemon) -> None:
    daemon.answers("GET /v1/names", NAMES)
    assert aigw("status", "--models").out == (
        "NAME         KIND           STATE    BACKENDS\n"
        "chat         route          ready    coder,ollama\n"
        "talk\\x1b[2J  alias of chat  stopped  coder\n"
        "gpt-*        pattern        -        -\n"
    )
    assert json.loads(aigw("status", "--models", "--json").out) == plain(NAMES)
    assert aigw("status", "--models", "--watch").code == 2


def test_no_names_are_said_to_be_none(aigw: Aigw, daemon: FakeDaemon) -> None:
    daemon.answers("GET /v1/names", [])
    assert aigw("status", "--models").out == "no names: the profile has no routes, and no backend lists a model\n"


def test_an_edited_profile_is_told(aigw: Aigw, daemon: FakeDaemon) -> None:
    daemon.answers("GET /v1/status", replace(starter("ready"), profile_file="/p/starter.yaml", profile_edited=True))
    out = aigw("status").out
    assert out.startswith(
        "profile  starter\n         /p/starter.yaml has changed since it was loaded: 'aigw up' applies it\n"
    )
