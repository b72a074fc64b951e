"""The Redis that aigw runs for its cache: a private one, on a Unix socket, that writes nothing to disk.

It is an engine only in that it is supervised like one. Valkey, its fork, serves as well.
"""

import os
import shutil
from pathlib import Path
from typing import Any, Final

from aigw_daemon.link.messages import ModelView
from aigw_daemon.profile.backends import BackendSection
from aigw_daemon.profile.caching import RedisSection
from aigw_daemon.supervisor.engines.base import Counters, Launch, LaunchContext
from aigw_daemon.supervisor.failures import FailureKind, sign, unrunnable
from aigw_daemon.supervisor.patience import Stage
from aigw_daemon.words import EngineKind

PROGRAMS: Final = ("redis-server", "valkey-server")
"""What can serve, the first choice first."""
MOST_CLIENTS: Final = 64
"""A worker has two connections, and one more for the operator."""


class RedisEngine:
    """See Engine. It is asked by `redis_probe`, over its socket, and not by paths."""

    kind = EngineKind.REDIS
    health_path = "/"
    models_path = "/"
    props_path: str | None = None
    start_timeout = 30.0
    stall_timeout: float | None = None
    stages: tuple[Stage, ...] = ()
    has_key = False
    """Its socket lies in a folder that only its user may enter."""
    counters: Counters | None = None
    signs = (
        sign(
            r"Failed opening Unix socket: (.*)",
            FailureKind.NO_RESOURCES,
            "it cannot make its socket ({0}): see that the folder of aigw's sockets is there and yours",
        ),
        sign(
            r"FATAL CONFIG FILE ERROR",
            FailureKind.BAD_FLAG,
            "it refuses its settings: install Redis 6.2 or later, or Valkey",
        ),
        sign(
            r"Out Of Memory allocating|Can't allocate memory",
            FailureKind.OUT_OF_MEMORY,
            "it ran out of memory: lower redis_memory, or stop what else runs here",
        ),
    )

    def launch(self, context: LaunchContext) -> Launch:
        """See Engine."""
        section = context.section
        if not isinstance(section, RedisSection):
            raise TypeError(f"{context.name} is no Redis of ours")
        env = dict(context.inherited)
        found = _program(env.get("PATH", os.defpath))
        argv = (
            found,
            *("--port", "0", "--unixsocket", str(context.home.redis_socket), "--unixsocketperm", "600"),
            *("--save", "", "--appendonly", "no"),
            *("--maxmemory", str(section.memory), "--maxmemory-policy", "allkeys-lru"),
            *("--maxclients", str(MOST_CLIENTS)),
            # A title of its own would overwrite its environment, and with it the cookie by which we know it again.
            *("--set-proc-title", "no"),
        )
        return Launch(argv, env, (Path(found),))

    def models(self, _section: BackendSection, _listing: Any, _props: Any) -> tuple[ModelView, ...]:
        """See Engine: it has none."""
        return ()

    def concurrency(self, _props: Any) -> int | None:
        """See Engine: nothing is routed to it."""
        return None


def _program(path: str) -> str:
    found = next(filter(None, (shutil.which(name, path=path) for name in PROGRAMS)), None)
    if found is None:
        raise unrunnable(
            FailureKind.MISSING_BINARY,
            f"neither {' nor '.join(PROGRAMS)} is on the PATH: install one (the package redis-server or valkey), or "
            "take redis: managed out of the profile",
        )
    return found
