"""One gateway worker as the daemon sees it: its process, its connection, what it has in flight."""

import asyncio
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from aigw_daemon.gatekeeper.listeners import Endpoint
from aigw_daemon.home import Home
from aigw_daemon.identity import Identity
from aigw_daemon.link.daemon import WorkerConnection
from aigw_daemon.link.messages import Down, Hello, Load
from aigw_daemon.supervisor.launcher import Handle, ProcessSpec
from aigw_daemon.words import GATEWAY

NAME: Final = GATEWAY
"""The worker's tag among the processes of this aigw, and the name of its log."""

_ONE_ARENA: Final = {"MALLOC_ARENA_MAX": "1"}
"""The worker's threads are few and short: an arena for each would only hold memory, 2 MB of it."""


@dataclass
class Worker:
    """A worker process. ``connection`` is None until its hello, and again when the link breaks."""

    handle: Handle
    connection: WorkerConnection | None = None
    load: Load = field(default_factory=lambda: Load({}))
    """What it said last."""
    stray: bool = False
    """It came by itself and nobody has decided about it yet."""
    brought: list[socket.socket] = field(default_factory=list)
    """The listeners that a stray came with, until somebody takes or closes them."""
    served: frozenset[Endpoint] = frozenset()
    """Where a stray accepts; empty for one that drains."""
    same_version: bool = True
    leaving: bool = False
    """It has been asked to drain."""
    asked: int = 0
    """How often it was asked for a sign of life."""
    owed: int = 0
    """How many of those in a row it owes; whatever it says is one."""
    applied: int | None = None
    """The revision of the snapshot that it routes on, as far as it has told over this connection."""
    verdict: str | None = None
    """Why it was killed, if we did that."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    end: str = ""
    """How it ended, once it is gone."""

    @property
    def pid(self) -> int:
        """Its process."""
        return self.handle.identity.pid

    def take_brought(self) -> list[socket.socket]:
        """The listeners that it came with; they are the caller's from now on."""
        brought, self.brought = self.brought, []
        return brought

    def send(self, message: Down) -> None:
        """Tell it something, if it can be told."""
        if self.connection is not None:
            self.connection.send(message)


def log_of(home: Home) -> Path:
    """Where workers write what goes wrong."""
    return home.logs / f"{NAME}.log"


def spec(home: Home, listeners: Sequence[socket.socket]) -> ProcessSpec:
    """How a worker is started: our own interpreter, the listeners by number, nothing else inherited."""
    numbers = tuple(listener.fileno() for listener in listeners)
    return ProcessSpec(
        name=NAME,
        argv=(
            sys.executable,
            "-P",  # nothing is imported from the folder that the daemon happens to run in
            "-m",
            "aigw_daemon.gateway.worker",
            "--link",
            str(home.link_socket),
            "--place",
            str(home.place_file),
            "--listen",
            ",".join(map(str, numbers)),
        ),
        env=os.environ | _ONE_ARENA,
        log=log_of(home),
        pass_fds=numbers,
    )


def identity_of(hello: Hello) -> Identity:
    """A worker that we did not start ourselves, by what the link has verified of it."""
    return Identity(
        pid=hello.pid,
        start_ticks=hello.start_ticks,
        boot_id=hello.boot_id,
        pgid=hello.pid,  # it leads its own session
        cookie=hello.cookie,
    )
