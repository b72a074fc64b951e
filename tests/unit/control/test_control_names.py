"""The names that clients can ask for."""

from aigw_daemon.control.names import name_infos, route_names
from aigw_daemon.control.schema import NameInfo
from aigw_daemon.link.messages import RouteView, TargetView
from aigw_daemon.words import State
from tests.support.gateway import backend
from tests.support.routing import having, model, showing


def test_routes_aliases_patterns_models_and_capabilities_are_names() -> None:
    snapshot = showing(
        having(backend("ollama", 1), model("llama3.1:latest"), model("chat")),
        having(backend("coder", 2), model("qwen"), state=State.STOPPED),
        routes=(
            RouteView("chat", (TargetView("coder", "qwen"), TargetView("ollama", "llama3.1:latest"))),
            RouteView("talk", (TargetView("coder", "qwen"),), alias_of="chat"),
            RouteView("gpt-*", (TargetView("gone", "x"),), pattern=True),
        ),
        capabilities={"cap:fast": ("qwen",)},
    )
    assert name_infos(snapshot) == [
        NameInfo(name="chat", kind="route", backends=["coder", "ollama"], state="ready"),
        NameInfo(name="talk", kind="alias", backends=["coder"], state="stopped", alias_of="chat"),
        NameInfo(name="gpt-*", kind="pattern", backends=["gone"], state=None),
        NameInfo(name="llama3.1:latest", kind="model", backends=["ollama"], state="ready"),
        NameInfo(name="qwen", kind="model", backends=["coder"], state="stopped"),
        NameInfo(name="cap:fast", kind="capability", backends=["coder"], state="stopped"),
    ]
    assert route_names(snapshot) == ["chat", "talk"]
