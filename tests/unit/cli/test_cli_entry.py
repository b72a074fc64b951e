"""The entry: help that answers at once, exit codes, usage errors, completion, and the real program on a terminal."""

import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from aigw_cli import completion
from aigw_cli.app import app
from aigw_cli.failure import ExitCode
from aigw_daemon.control.cache_schema import CacheCounters, CacheMemory, CacheStatistics
from aigw_daemon.control.schema import HealthReport, NameInfo, Problem, ProfileInfo, RouteAnswer, Why
from aigw_daemon.home import Home
from tests.support.fake_daemon import FakeDaemon
from tests.support.statuses import starter, workstation
from tests.unit.cli.conftest import Aigw

DOCS = Path(__file__).resolve().parents[3] / "docs" / "cli.md"


def commands() -> set[str]:
    """Every command as it is typed."""
    found = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    for group in app.registered_groups:
        assert group.typer_instance is not None
        for command in group.typer_instance.registered_commands:
            assert command.callback is not None
            found.add(f"{group.name} {command.name or command.callback.__name__}")
    return found


def test_the_page_of_commands_lists_exactly_the_commands_that_there_are() -> None:
    documented = re.findall(r"^### `aigw ([a-z-]+(?: [a-z]+)?)", DOCS.read_text(), re.MULTILINE)
    assert sorted(documented) == sorted(commands())


def test_the_page_lists_every_exit_code() -> None:
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", DOCS.read_text(), re.MULTILINE)}
    assert documented == {int(code) for code in ExitCode}


@pytest.mark.parametrize("command", sorted(commands()))
def test_every_command_speaks_json_and_has_help(aigw: Aigw, command: str) -> None:
    ran = aigw(*command.split(), "--help")
    assert ran.code == 0
    assert "--json" in ran.out


def test_help_imports_nothing_that_it_can_do_without() -> None:
    heavy = ("pydantic", "httpx", "fastapi", "yaml", "rich")
    program = f"import sys, aigw_cli.app; print([module for module in {heavy} if module in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


LOOKING = """
import sys
from aigw_cli.main import main
for command in ("status", "status --models", "health", "why llamacpp", "events", "test-routing smollm2", "cache stats",
                "logs llamacpp --lines 1"):
    code = main(command.split())
    heavy = [each for each in ("pydantic", "httpx", "asyncio", "http.client", "importlib.metadata", "rich.live")
             if each in sys.modules]
    print(command, code, heavy, file=sys.stderr)
"""


def test_commands_that_only_look_import_nothing_that_takes_long(daemon: FakeDaemon) -> None:
    daemon.answers("GET /v1/status", starter("ready"))
    daemon.answers("GET /v1/health", HealthReport(status="ok"))
    daemon.answers("GET /v1/why/llamacpp", Why(name="llamacpp", state="ready", well=True, sentence="is ready"))
    daemon.streams("GET /v1/events", [{"at": 0, "backend": "llamacpp", "event": "ready", "text": ""}])
    daemon.answers("POST /v1/route", RouteAnswer(model="smollm2", matched="listed"))
    daemon.answers("GET /v1/names", [])
    total, memory = CacheCounters(), CacheMemory(entries=0, bytes=0, limit_bytes=1)
    daemon.answers("GET /v1/cache/stats", CacheStatistics(mode="on", ttl_s=60, since=0, total=total, memory=memory))
    daemon.streams("GET /v1/logs/llamacpp", ["a line"])
    done = subprocess.run([sys.executable, "-c", LOOKING], capture_output=True, text=True, check=True)
    assert [line.partition(" [")[2] for line in done.stderr.splitlines() if " [" in line] == ["]"] * 8, done.stderr


def test_help_is_in_groups_with_examples_and_the_home(aigw: Aigw) -> None:
    said = aigw("--help").out
    sections = re.findall(r"^([A-Z][\w, ]+):$", said, re.MULTILINE)
    assert sections == ["Options", "Running", "Looking", "Models, profiles, cache", "Daemon", "Examples", "Environment"]
    assert "AIGW_HOME" in said


@pytest.mark.parametrize("command", sorted(commands()))
def test_every_example_in_the_help_is_a_command_line_that_parses(aigw: Aigw, command: str) -> None:
    said = aigw(*command.split(), "--help").out
    lines = [line.strip() for line in said.partition("Examples:")[2].splitlines() if line.strip()]
    assert lines
    for line in lines:
        words = shlex.split(line.partition(" && ")[0])
        assert words[: 1 + len(command.split())] == ["aigw", *command.split()]
        # Parsed, and not run. Raises for a line that doesn't parse.
        context = typer.main.get_command(app).make_context("aigw", words[1:])
        for name in command.split():
            found = context.command.get_command(context, name)  # type: ignore[attr-defined]  # each of them is a group
            rest = words[words.index(name) + 1 :]
            context = found.make_context(name, list(rest), parent=context)


def test_no_arguments_show_the_help(aigw: Aigw) -> None:
    ran = aigw()
    assert ran.code == 0
    assert ran.out == aigw("--help").out
    assert "Usage: aigw [OPTIONS] COMMAND" in ran.out


def test_the_version_is_told(aigw: Aigw) -> None:
    ran = aigw("--version")
    assert ran.code == 0
    assert re.fullmatch(r"aigw \d+\.\d+\.\d+\n", ran.out)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["heatlh"], "aigw: No such command 'heatlh'. Did you mean 'health'?\n  'aigw --help' shows how\n"),
        (["logs"], "aigw: Missing argument 'BACKEND'.\n  'aigw logs --help' shows how\n"),
        (["profile"], "aigw: Missing command.\n  'aigw profile --help' shows how\n"),
    ],
)
def test_wrong_usage_is_exit_code_2_with_the_way_to_the_help(aigw: Aigw, arguments: list[str], said: str) -> None:
    ran = aigw(*arguments)
    assert (ran.code, ran.out, ran.err) == (2, "", said)


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("unknown_backend", 4),
        ("unknown_model", 4),
        ("unknown_profile", 4),
        ("invalid_profile", 5),
        ("port_taken", 1),
        ("of a newer daemon", 1),
    ],
)
def test_a_refusal_has_the_exit_code_of_its_kind(aigw: Aigw, daemon: FakeDaemon, code: str, exit_code: int) -> None:
    daemon.refuses("POST /v1/up", Problem(code=code, message="no\x1b[2J", hint="do this"))
    plain, as_json = aigw("up"), aigw("up", "--json")
    assert (plain.code, plain.err) == (exit_code, "aigw: no\\x1b[2J\n  do this\n")
    assert as_json.code == exit_code
    assert json.loads(as_json.out)["error"]["code"] == code


def test_completion_asks_the_daemon(daemon: FakeDaemon) -> None:
    daemon.answers("GET /v1/status", workstation())
    daemon.answers("GET /v1/profiles", [ProfileInfo(name="starter", path="/p"), ProfileInfo(name="gpu", path="/g")])
    assert completion.backends("") == ["ollama", "coder", "dolphin"]
    assert completion.backends("co") == ["coder"]
    assert completion.logs("d") == ["dolphin", "daemon"]
    assert completion.profiles("st") == ["starter"]
    names = [NameInfo(name="llama", kind="route"), NameInfo(name="llama-*", kind="pattern")]
    daemon.answers("GET /v1/names", [*names, NameInfo(name="llama3.1:latest", kind="model")])
    assert completion.models("llama") == ["llama", "llama3.1:latest"]


def test_a_tab_completes_names_and_imports_nothing_that_takes_long(daemon: FakeDaemon) -> None:
    daemon.answers("GET /v1/names", [NameInfo(name="chat", kind="route"), NameInfo(name="chat-*", kind="pattern")])
    program = "import sys\nfrom aigw_cli.main import main\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    environment = {"_AIGW_COMPLETE": "complete_bash", "COMP_WORDS": "aigw test-routing ch", "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["chat"], done.stderr
    assert not {"pydantic", "httpx", "asyncio", "http.client", "rich.console"} & set(done.stderr.split())


@pytest.mark.usefixtures("home")
def test_completion_without_a_daemon_is_silently_empty() -> None:
    assert completion.backends("") == completion.profiles("") == completion.models("") == []


def test_completion_of_nonsense_is_silently_empty(daemon: FakeDaemon) -> None:
    daemon.answers("GET /v1/status", ["not", "a", "status"])
    daemon.streams("GET /v1/profiles", ["<html>"])
    assert completion.backends("") == completion.profiles("") == []


def test_a_shell_gets_the_names(daemon: FakeDaemon, home: Home) -> None:
    daemon.answers("GET /v1/status", workstation())
    env = os.environ | {"_AIGW_COMPLETE": "complete_bash", "COMP_WORDS": "aigw start co", "COMP_CWORD": "2"}
    done = subprocess.run([sys.executable, "-m", "aigw_cli.main"], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["coder"]


def on_a_terminal(*arguments: str, width: int, interrupted_at: str | None = None, **env: str) -> str:
    """What the real program writes to a terminal of this width; SIGINT ends it once it has written so much."""
    controller, terminal = pty.openpty()
    os.set_blocking(controller, False)
    environment = (
        os.environ | {"COLUMNS": str(width), "LINES": "24", "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"} | env
    )
    command = [sys.executable, "-m", "aigw_cli.main", *arguments]
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment) as process:
        os.close(terminal)
        written = b""
        while True:
            select.select([controller], [], [], 20)
            try:
                written += os.read(controller, 65536)
            except OSError:  # the other end is closed: the program has ended
                break
            if interrupted_at is not None and interrupted_at.encode() in written:
                process.send_signal(signal.SIGINT)
                interrupted_at = None
        process.wait(20)
    os.close(controller)
    return written.decode().replace("\r\n", "\n")


def test_a_terminal_gets_colours_and_glyphs_within_its_width(daemon: FakeDaemon) -> None:
    daemon.answers("GET /v1/status", workstation())
    screen = on_a_terminal("status", width=60)
    assert "\x1b[32m● ready\x1b[0m" in screen
    assert "\x1b[31m✗ failed\x1b[0m" in screen
    lines = re.sub(r"\x1b\[[0-9;]*m", "", screen).splitlines()
    assert max(len(line) for line in lines) <= 60


def test_no_color_is_honoured(daemon: FakeDaemon) -> None:
    daemon.answers("GET /v1/status", workstation())
    screen = on_a_terminal("status", width=80, NO_COLOR="1")
    assert "● ready" in screen
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", screen)


def test_a_dumb_terminal_gets_plain_text(daemon: FakeDaemon) -> None:
    daemon.answers("GET /v1/status", workstation())
    screen = on_a_terminal("status", width=80, TERM="dumb")
    assert "\x1b" not in screen
    assert "●" not in screen


def test_the_live_view_of_up_ends_in_the_summary(daemon: FakeDaemon) -> None:
    daemon.answers("POST /v1/up", starter("starting"))
    daemon.streams("GET /v1/watch", [starter("starting", progress="loading"), starter("ready", since_s=600)])
    screen = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", on_a_terminal("up", width=80))
    assert "llamacpp  ◐ starting       0.0s  loading" in screen
    assert "Gateway  http://127.0.0.1:4000/v1\nModels   smollm2-135m\n" in screen


def test_watching_on_a_terminal_outlives_the_daemon(daemon: FakeDaemon) -> None:
    daemon.answers("GET /v1/status", starter("ready"))
    daemon.streams("GET /v1/watch", [starter("ready")])
    daemon.streams("GET /v1/watch", [workstation()])
    screen = on_a_terminal("status", "--watch", width=80, interrupted_at="dolphin")
    before, after = screen.split("waiting for it", 1)
    assert "llamacpp" in before
    assert "dolphin" in after


@pytest.mark.usefixtures("home")
def test_watching_where_no_daemon_is_says_so_at_once() -> None:
    assert "aigwd is not running" in on_a_terminal("status", "--watch", width=80)


@pytest.mark.parametrize("columns", ["40", "80"])
def test_the_help_wraps_what_each_command_does(aigw: Aigw, monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    shown = aigw("--help").out
    assert "..." not in shown.replace("[ARGS]...", "")
    assert "Start every backend in the profile and wait until it is ready." in " ".join(shown.split())
