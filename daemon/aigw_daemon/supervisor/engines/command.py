"""Any other OpenAI-compatible server that a command of the profile starts: SGLang, TabbyAPI, whisper.cpp, a script."""

import os
from pathlib import Path
from typing import Any

from aigw_daemon.link.messages import ModelView
from aigw_daemon.profile.backends import BackendSection, CommandBackend
from aigw_daemon.profile.commands import filled_in
from aigw_daemon.supervisor.engines.base import LOOPBACK, Counters, Launch, LaunchContext
from aigw_daemon.supervisor.engines.launching import own_environment, program
from aigw_daemon.supervisor.engines.listing import entries, model_view
from aigw_daemon.supervisor.engines.native_signs import SIGNS as NATIVE_SIGNS
from aigw_daemon.supervisor.engines.python_signs import SIGNS as PYTHON_SIGNS
from aigw_daemon.supervisor.failures import FailureKind, sign
from aigw_daemon.supervisor.patience import Stage
from aigw_daemon.words import EngineKind


class CommandEngine:
    """Starts what the profile says, and knows nothing of it but where it answers. See Engine."""

    kind = EngineKind.COMMAND
    health_path = "/health"
    models_path = "/v1/models"
    props_path: str | None = None
    start_timeout = 7200.0
    """Nobody knows what it loads; a start that does nothing is found by its stall."""
    stall_timeout: float | None = 300.0
    stages: tuple[Stage, ...] = ()
    has_key = False
    """Servers differ in how they take a key, and a key has no place among arguments (rule S12)."""
    counters: Counters | None = None
    signs = (
        sign(
            r"out of memory|OutOfMemoryError|bad_alloc|Cannot allocate memory",
            FailureKind.OUT_OF_MEMORY,
            "it ran out of memory: give it a smaller model or context, or stop what else runs there",
        ),
        sign(
            r"address already in use",
            FailureKind.PORT_TAKEN,
            "its port is taken: free it, give the backend another port, and see that its command uses {{port}}",
        ),
        *NATIVE_SIGNS,
        *PYTHON_SIGNS,
    )

    def launch(self, context: LaunchContext) -> Launch:
        """See Engine."""
        section = context.section
        if not isinstance(section, CommandBackend):
            raise TypeError(f"the backend {context.name} has no command")
        env = {**context.inherited, **own_environment(context.name, section.env, context.environ)}
        values = {"host": LOOPBACK, "port": str(context.port), "model": section.model or ""}
        first, *rest = filled_in(section.command, values)
        found = program(first, env.get("PATH", os.defpath), "correct command in the profile, or install it")
        return Launch((found, *rest, *section.args), env, (Path(found),))

    def models(self, section: BackendSection, listing: Any, _props: Any) -> tuple[ModelView, ...]:
        """See Engine: what the profile names, else what the server lists."""
        if section.served_models is not None:
            return tuple(ModelView(id=name, created=0) for name in section.served_models)
        return tuple(model_view(entry) for entry in entries(listing))

    def concurrency(self, _props: Any) -> int | None:
        """See Engine: nobody can tell."""
        return None
