"""What the daemon must know again after a crash: what it serves, and which processes are its own (rules A12, A18).

One JSON document, replaced whole: a temporary file in the same folder, flushed, renamed over the old one, the folder
flushed. A thread of its own writes it, so that a slow or full disk never holds up the event loop; changes that come
while it writes are written together. The instance, by which every process of ours is recognised, is kept in a second
file as well: a torn state file must not make strangers of our own engines.
"""

import asyncio
import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from aigw_daemon.files import write_whole
from aigw_daemon.home import Home
from aigw_daemon.identity import Identity
from aigw_daemon.version import STATE_VERSION

RETRY_SECONDS: Final = 1.0
"""Between two attempts to write on a disk that is full or broken."""

_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError)
"""What reading torn JSON raises; the second for bytes inside a string that are no UTF-8."""

log = logging.getLogger(__name__)


class StateError(Exception):
    """The state file can't be used; the text says why and what to do."""


class Member(msgspec.Struct, frozen=True):
    """A process that an engine has started: its PID, told from later owners of that PID by its start."""

    pid: int
    start_ticks: int


class Seat(msgspec.Struct, frozen=True):
    """A GPU that a backend was given. The index may change with a restart of the machine; no process outlives that."""

    index: int
    uuid: str


class Listed(msgspec.Struct, frozen=True):
    """The models that a backend listed last."""

    models: tuple[str, ...]
    at: float
    """Seconds since the epoch: when they changed, or when the backend stopped serving after that."""
    revision: str
    """Of what the backend was then; see `supervisor.revision`."""


class BackendRecord(msgspec.Struct, frozen=True):
    """What is kept of one backend."""

    wanted: bool = False
    stopped_by_operator: bool = False
    """Holds against demand and restarts of the daemon until a start."""
    identity: Identity | None = None
    """The leader, while one runs."""
    descendants: tuple[Member, ...] = ()
    """They may have erased their environment, and with it our cookie."""
    gpus: tuple[Seat, ...] = ()
    """What the leader was pinned to, where that is known."""
    port: int | None = None
    """Chosen once for a backend whose profile names none."""
    log_offset: int = 0
    """Where in its log this start began, in bytes."""
    log_file: tuple[int, int] | None = None
    """Device and inode of that log: its name may go while it is written to."""
    restarts: int = 0
    """How often it was started again after it failed."""
    revision: str = ""
    """Of what the leader was started with; see `supervisor.revision`."""
    listed: Listed | None = None


class Document(msgspec.Struct, frozen=True):
    """The state file's content."""

    instance: str
    """The cookie: in the environment of every process that this home's daemons start."""
    version: int = STATE_VERSION
    profile: str | None = None
    """The path of the active profile."""
    applied: str | None = None
    """The path of the profile that the records in ``backends`` belong to."""
    serving: bool = False
    """Whether the operator brought it up and not down since."""
    gateway: Identity | None = None
    backends: dict[str, BackendRecord] = {}


Write = Callable[[Path, bytes], None]


class StateFile:
    """The document in memory, and on disk a moment later. One per home; safe to change from any thread."""

    def __init__(self, home: Home, *, write: Write | None = None) -> None:
        """Read what is there. Raises StateError when a newer aigw wrote it, and when it can't be read at all."""
        self._path = home.state_file
        self._write = write or write_whole
        self._document = _load(self._path, home.state / "instance")
        self._changed = threading.Condition()
        self._writing = threading.Lock()
        self._revision = 0
        self._written = 0
        self._closing = False
        self._trouble: str | None = None
        self._thread: threading.Thread | None = None

    @property
    def document(self) -> Document:
        """As it is now; immutable."""
        return self._document

    @property
    def trouble(self) -> str | None:
        """Why the last changes are not on disk, as long as that lasts."""
        return self._trouble

    def backend(self, name: str) -> BackendRecord:
        """The record of a backend; an empty one when there is none."""
        return self._document.backends.get(name) or BackendRecord()

    def update(self, **changes: Any) -> None:
        """Change fields of the document."""
        with self._changed:
            fresh = msgspec.structs.replace(self._document, **changes)
            if fresh != self._document:
                self._document = fresh
                self._mark()

    def update_backend(self, name: str, **changes: Any) -> None:
        """Change fields of one backend's record."""
        with self._changed:
            record = msgspec.structs.replace(self.backend(name), **changes)
            self.update(backends={**self._document.backends, name: record})

    def forget_backend(self, name: str) -> None:
        """Drop the record of a backend that is gone for good."""
        with self._changed:
            self.update(backends={other: kept for other, kept in self._document.backends.items() if other != name})

    def save(self) -> None:
        """Write now, and return when it is on disk. Raises OSError."""
        with self._writing:
            with self._changed:
                document, revision = self._document, self._revision
            self._write(self._path, _encode(document))
            with self._changed:
                self._written = revision

    async def close(self) -> None:
        """Write what is left, and end the thread; a disk that refuses is reported in the log only."""
        await asyncio.to_thread(self._end)

    def _mark(self) -> None:
        self._revision += 1
        if self._thread is None:
            # A daemon thread: a process that has to end at once must not wait for a disk.
            self._thread = threading.Thread(target=self._keep_written, name="state-file", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _keep_written(self) -> None:
        while self._wait_for_change():
            try:
                self.save()
                self._trouble = None
            except OSError as error:
                trouble = f"cannot write {self._path}: {error.strerror}"
                # Said once per cause: a full disk stays full for a while, and the log may be on it.
                if trouble != self._trouble:
                    log.warning("%s; trying again every second", trouble)
                    self._trouble = trouble
                time.sleep(RETRY_SECONDS)

    def _wait_for_change(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._written < self._revision)
            return not self._closing

    def _end(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        if self._written < self._revision:
            try:
                self.save()
            except OSError as error:
                log.warning("cannot write %s: %s; its last changes are lost", self._path, error)


def peek(path: Path) -> Document | None:
    """What the state file says, for whoever only looks; None where it can't be read."""
    with contextlib.suppress(OSError, *_UNREADABLE):
        return msgspec.json.decode(path.read_bytes(), type=Document)
    return None


def rewrite(home: Home, **changes: Any) -> None:
    """Change fields of the document while no daemon runs; the caller holds the lock. Raises StateError and OSError."""
    document = _load(home.state_file, home.state / "instance")
    write_whole(home.state_file, _encode(msgspec.structs.replace(document, **changes)))


class _Header(msgspec.Struct):
    """The one field that every version of the file has."""

    version: int


def _encode(document: Document) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


def _load(path: Path, instance_path: Path) -> Document:
    document = _read(path)
    instance = _read_instance(instance_path) or (document.instance if document else "") or uuid.uuid4().hex
    if _read_instance(instance_path) != instance:
        try:
            write_whole(instance_path, instance.encode() + b"\n")
        except OSError as error:
            raise StateError(f"cannot write {instance_path}: {error.strerror}; make room, or move AIGW_HOME") from error
    if document is None:
        return Document(instance=instance)
    return msgspec.structs.replace(document, instance=instance, version=STATE_VERSION)


def _read(path: Path) -> Document | None:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError(f"cannot read {path}: {error.strerror}; it must belong to you") from error
    try:
        version = msgspec.json.decode(content, type=_Header).version
        if version > STATE_VERSION:
            raise StateError(
                f"{path} was written by a newer aigw (its version is {version}, this one knows {STATE_VERSION}): "
                "use the newer aigw, or stop everything with it and remove the file"
            )
        return msgspec.json.decode(content, type=Document)
    except _UNREADABLE as error:
        _move_aside(path, error)
        return None


def _move_aside(path: Path, error: Exception) -> None:
    aside = path.with_name(path.name + ".unreadable")
    log.warning("%s is unreadable (%s): kept as %s; engines of ours are found by their cookie", path, error, aside)
    path.replace(aside)


def _read_instance(path: Path) -> str:
    try:
        text = path.read_text(errors="replace").strip()
    except OSError:
        return ""
    # Anything else than what we write would end up in environments and comparisons: begin anew instead.
    return text if text.isalnum() and text.isascii() else ""
