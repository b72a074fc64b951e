"""Pulls over HTTP from a loopback server, with everything that goes wrong on the way."""

import asyncio
import errno
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from aigw_daemon.home import Home
from aigw_daemon.models.puller import Puller
from aigw_daemon.models.request import PullError, PullProgress, PullRequest
from aigw_daemon.models.store import MARGIN, Disk
from tests.unit.models.model_server import ModelServer, serving

CONTENT = os.urandom(3 * 1024 * 1024)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home.from_environment({"AIGW_HOME": str(tmp_path / "home")})
    home.models.mkdir(parents=True)
    return home


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with serving(CONTENT) as server:
        yield server


@pytest.fixture
async def puller(home: Home) -> AsyncIterator[Puller]:
    async with Puller(home) as puller:
        yield puller


def wanted(server: ModelServer) -> PullRequest:
    return PullRequest("small", server.url(), DIGEST, len(CONTENT))


async def pulled(puller: Puller, request: PullRequest) -> list[PullProgress]:
    return [progress async for progress in puller.pull(request)]


def left(home: Home) -> list[str]:
    return sorted(path.name for path in home.models.rglob("*") if path.is_file())


async def failure(puller: Puller, request: PullRequest) -> PullError:
    with pytest.raises(PullError) as caught:
        await pulled(puller, request)
    return caught.value


async def test_a_model_is_pulled_verified_and_told_step_by_step(
    puller: Puller, home: Home, server: ModelServer
) -> None:
    steps = await pulled(puller, wanted(server))
    file = home.models / "small/model.gguf"
    assert file.read_bytes() == CONTENT
    assert file.stat().st_mode & 0o777 == 0o600
    assert [step.phase for step in (steps[0], steps[-1])] == ["resolving", "done"]
    assert (steps[-1].done_bytes, steps[-1].total_bytes, steps[-1].already) == (len(CONTENT), len(CONTENT), False)
    downloading = [step.done_bytes for step in steps if step.phase == "downloading"]
    assert downloading == sorted(downloading)
    assert left(home) == [".model.gguf.verified.json", "model.gguf"]


async def test_what_is_there_is_not_pulled_again(puller: Puller, server: ModelServer) -> None:
    await pulled(puller, wanted(server))
    steps = await pulled(puller, wanted(server))
    assert (steps[-1].phase, steps[-1].already) == ("done", True)
    assert len(server.ranges) == 1


async def test_a_file_put_there_by_hand_is_read_once_and_kept(puller: Puller, home: Home, server: ModelServer) -> None:
    (home.models / "small").mkdir()
    (home.models / "small/model.gguf").write_bytes(CONTENT)
    assert [step.phase for step in await pulled(puller, wanted(server))][-2:] == ["verifying", "done"]
    assert "verifying" not in [step.phase for step in await pulled(puller, wanted(server))]
    assert server.ranges == []


async def test_a_file_that_was_changed_is_pulled_again(puller: Puller, home: Home, server: ModelServer) -> None:
    await pulled(puller, wanted(server))
    file = home.models / "small/model.gguf"
    file.write_bytes(b"x" * len(CONTENT))
    await pulled(puller, wanted(server))
    assert file.read_bytes() == CONTENT


async def test_wrong_bytes_are_removed_and_told_with_both_checksums(
    puller: Puller, home: Home, server: ModelServer
) -> None:
    server.content = b"y" * len(CONTENT)
    error = await failure(puller, wanted(server))
    assert error.reason == "checksum"
    assert f"expected {DIGEST}, got {hashlib.sha256(server.content).hexdigest()}" in str(error)
    assert left(home) == []


@pytest.mark.parametrize("etag", ['"one"', 'W/"weak"'])
async def test_a_download_says_whether_it_could_be_resumed(puller: Puller, server: ModelServer, etag: str) -> None:
    server.etag, resumable = etag, etag == '"one"'
    async with aclosing(puller.pull(wanted(server))) as steps:
        told = {step.resumable async for step in steps if step.phase == "downloading"}
    assert told == {resumable}
    server.content, server.cut_after = b"n" * len(CONTENT), 2 * 1024 * 1024
    error = await failure(puller, PullRequest("other", server.url(), hashlib.sha256(server.content).hexdigest()))
    assert ("it resumes there" if resumable else "it starts from the beginning") in str(error)


async def test_a_download_that_is_cut_off_goes_on_from_there(puller: Puller, home: Home, server: ModelServer) -> None:
    server.cut_after = 2 * 1024 * 1024
    error = await failure(puller, wanted(server))
    assert (error.reason, "pull again, it resumes there" in str(error)) == ("network", True)
    assert not (home.models / "small/model.gguf").exists()
    server.cut_after = None
    await pulled(puller, wanted(server))
    assert server.ranges[1] is not None
    assert server.ranges[1] != "bytes=0-"
    assert (home.models / "small/model.gguf").read_bytes() == CONTENT
    assert left(home) == [".model.gguf.verified.json", "model.gguf"]


async def test_a_source_that_changed_meanwhile_starts_anew(puller: Puller, home: Home, server: ModelServer) -> None:
    server.content, server.etag, server.cut_after = b"z" * len(CONTENT), '"old"', 2 * 1024 * 1024
    await failure(puller, wanted(server))
    server.content, server.etag, server.cut_after = CONTENT, '"new"', None
    await pulled(puller, wanted(server))
    assert (home.models / "small/model.gguf").read_bytes() == CONTENT


async def test_a_partial_file_that_is_whole_already_is_no_obstacle(
    puller: Puller, home: Home, server: ModelServer
) -> None:
    server.cut_after = 2 * 1024 * 1024
    await failure(puller, wanted(server))
    (home.models / "small/model.gguf.part").write_bytes(CONTENT)
    server.cut_after = None
    await pulled(puller, wanted(server))
    assert server.ranges[1:] == [f"bytes={len(CONTENT)}-", None]
    assert (home.models / "small/model.gguf").read_bytes() == CONTENT


async def test_more_bytes_than_declared_are_refused(puller: Puller, home: Home, server: ModelServer) -> None:
    error = await failure(puller, replace(wanted(server), size=1000))
    assert (error.reason, "1000 were declared" in str(error)) == ("too_large", True)
    assert left(home) == []


@pytest.mark.parametrize(
    ("status", "reason"), [(404, "not_found"), (410, "not_found"), (403, "network"), (503, "network")]
)
async def test_an_error_answer_is_told(puller: Puller, server: ModelServer, status: int, reason: str) -> None:
    server.status = status
    error = await failure(puller, wanted(server))
    assert (error.reason, f"HTTP {status}" in str(error)) == (reason, True)


async def test_a_compressed_answer_is_refused(puller: Puller, server: ModelServer) -> None:
    server.headers["Content-Encoding"] = "gzip"
    assert "compressed" in str(await failure(puller, wanted(server)))


async def test_a_redirect_on_the_loopback_is_followed(puller: Puller, home: Home, server: ModelServer) -> None:
    server.redirect = "/elsewhere"
    await pulled(puller, wanted(server))
    assert (home.models / "small/model.gguf").read_bytes() == CONTENT


@pytest.mark.parametrize("target", ["http://example.com/x", "ftp://127.0.0.1/x", "file:///etc/passwd"])
async def test_a_redirect_away_from_https_is_refused(puller: Puller, server: ModelServer, target: str) -> None:
    server.redirect = target
    error = await failure(puller, wanted(server))
    assert (error.reason, "a redirect must keep to https" in str(error)) == ("invalid", True)


async def test_redirects_without_end_are_refused(puller: Puller, server: ModelServer) -> None:
    server.redirect = "/model.gguf"
    assert "more than 5 redirects" in str(await failure(puller, wanted(server)))


async def test_a_host_that_is_not_there_is_told(puller: Puller, server: ModelServer, unused_tcp_port: int) -> None:
    error = await failure(puller, replace(wanted(server), source=f"http://127.0.0.1:{unused_tcp_port}/m.gguf"))
    assert (error.reason, "cannot reach 127.0.0.1" in str(error)) == ("network", True)


async def test_a_token_in_the_query_is_in_no_error(puller: Puller, server: ModelServer) -> None:
    server.status = 403
    error = await failure(puller, replace(wanted(server), source=server.url("/model.gguf?token=sk-secret")))
    assert "sk-secret" not in str(error)


async def test_two_pulls_of_one_model_share_one_download(puller: Puller, server: ModelServer) -> None:
    server.hold.clear()
    async with asyncio.TaskGroup() as tasks:
        both = [tasks.create_task(pulled(puller, wanted(server))) for _ in range(2)]
        await asyncio.to_thread(server.halfway.wait, 10)
        server.hold.set()
    for steps in (task.result() for task in both):
        assert [step.phase for step in (steps[0], steps[-1])] == ["resolving", "done"]
    assert len(server.ranges) == 1


async def test_a_caller_that_leaves_does_not_take_the_other_with_it(puller: Puller, server: ModelServer) -> None:
    server.hold.clear()
    async with asyncio.TaskGroup() as tasks:
        leaving, staying = (tasks.create_task(pulled(puller, wanted(server))) for _ in range(2))
        await asyncio.to_thread(server.halfway.wait, 10)
        leaving.cancel()
        await asyncio.wait({leaving})
        server.hold.set()
    assert staying.result()[-1].phase == "done"
    assert len(server.ranges) == 1


async def test_the_last_caller_to_leave_ends_the_download_and_the_next_goes_on(
    puller: Puller, home: Home, server: ModelServer
) -> None:
    server.hold.clear()
    async with aclosing(puller.pull(wanted(server))) as steps:
        async for step in steps:
            if step.phase == "downloading" and step.done_bytes >= 1024 * 1024:
                break
    server.hold.set()
    await pulled(puller, wanted(server))
    assert server.ranges[1] == f"bytes={1024 * 1024}-"
    assert (home.models / "small/model.gguf").read_bytes() == CONTENT


async def test_leaving_the_puller_ends_its_downloads(home: Home, server: ModelServer) -> None:
    server.hold.clear()
    async with asyncio.TaskGroup() as tasks, Puller(home) as puller:
        caller = tasks.create_task(failure(puller, wanted(server)))
        await asyncio.to_thread(server.halfway.wait, 10)
    assert caller.result().reason == "cancelled"


async def test_too_little_space_is_told_before_anything_is_asked_for(home: Home, server: ModelServer) -> None:
    async with Puller(home, disk=Disk(free=lambda folder: MARGIN)) as puller:
        error = await failure(puller, wanted(server))
    assert (error.reason, "free 3.1 MB more" in str(error)) == ("no_space", True)
    assert server.ranges == []


async def test_a_disk_that_fills_up_gets_back_what_the_pull_took(home: Home, server: ModelServer) -> None:
    def full(path: Path, mode: str) -> BinaryIO:
        path.touch()
        # The kernel's own ENOSPC, without a disk to fill.
        return cast("BinaryIO", Path("/dev/full").open("wb", buffering=0))

    async with Puller(home, disk=Disk(open=full)) as puller:
        error = await failure(puller, wanted(server))
    assert (error.reason, "is full" in str(error)) == ("no_space", True)
    assert isinstance(error.__cause__, PullError)
    cause = error.__cause__.__cause__
    assert isinstance(cause, OSError)
    assert cause.errno == errno.ENOSPC
    assert left(home) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": "-rf"}, "a model's name must start with a letter or digit"),
        ({"model": "../x"}, "a model's name must start with a letter or digit"),
        ({"file": "../../x"}, "each folder and file name must start with"),
        ({"file": "/x"}, "each folder and file name must start with"),
        ({"source": "http://example.com/x"}, "must be https"),
        ({"source": "gopher://x"}, "must be one of"),
        ({"sha256": None}, "needs --sha256"),
        ({"sha256": "abc"}, "must be 64 hexadecimal digits"),
    ],
)
async def test_a_request_that_breaks_a_rule_is_refused(
    puller: Puller, home: Home, server: ModelServer, change: dict[str, str | None], says: str
) -> None:
    error = await failure(puller, replace(wanted(server), **change))  # type: ignore[arg-type]
    assert (error.reason, says in str(error)) == ("invalid", True)
    assert left(home) == []


async def test_a_link_out_of_the_models_folder_is_refused(puller: Puller, home: Home, server: ModelServer) -> None:
    outside = home.models.parent / "outside"
    outside.mkdir()
    (home.models / "small").symlink_to(outside)
    error = await failure(puller, wanted(server))
    assert (error.reason, "leads out of the models folder" in str(error)) == ("invalid", True)
    assert list(outside.iterdir()) == []
