"""Where things live: AIGW_HOME moves all of it, sockets stay short, folders are private."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from aigw_daemon.home import Home, HomeError
from aigw_daemon.lock import AlreadyLocked, acquire

LONGEST_SOCKET_PATH = 107


def test_aigw_home_moves_everything_but_the_sockets(tmp_path: Path) -> None:
    home = Home.from_environment({"AIGW_HOME": str(tmp_path), "HOME": "/nowhere"})
    folders = (home.config, home.state, home.logs, home.models, home.profiles, home.state_file, home.lock)
    assert all(folder.is_relative_to(tmp_path) for folder in folders)


def test_without_it_the_xdg_folders_are_used(tmp_path: Path) -> None:
    variables = {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "st"), "XDG_DATA_HOME": "rel"}
    home = Home.from_environment(variables)
    assert home.state == tmp_path / "st/aigw"
    assert home.models == tmp_path / ".local/share/aigw/models"  # a relative XDG path is to be ignored


def test_sockets_have_short_paths_however_long_the_home(tmp_path: Path) -> None:
    home = Home.from_environment({"AIGW_HOME": str(tmp_path / ("long" * 60))})
    assert len(str(home.control_socket)) <= LONGEST_SOCKET_PATH
    assert home.control_socket != Home.from_environment({"AIGW_HOME": str(tmp_path)}).control_socket


def test_folders_are_made_private_and_an_open_one_is_closed(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir(mode=0o755)
    home = Home.from_environment({"AIGW_HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)})
    home.prepare()
    for folder in (home.config, home.state, home.logs, home.models, home.runtime):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_home_that_is_not_there_is_made_private_as_a_whole(tmp_path: Path) -> None:
    home = Home.from_environment({"AIGW_HOME": str(tmp_path / "new/home"), "XDG_RUNTIME_DIR": str(tmp_path)})
    home.prepare()
    for made in (tmp_path / "new", tmp_path / "new/home"):
        assert stat.S_IMODE(made.stat().st_mode) == 0o700


def test_a_runtime_folder_that_is_a_link_is_never_used(tmp_path: Path) -> None:
    home = Home.from_environment({"AIGW_HOME": str(tmp_path / "home"), "XDG_RUNTIME_DIR": str(tmp_path)})
    (tmp_path / "elsewhere").mkdir()
    home.runtime.symlink_to(tmp_path / "elsewhere")
    prepared = home.prepare()
    assert prepared.runtime == home.other_runtimes[0]
    assert stat.S_IMODE(prepared.runtime.stat().st_mode) == 0o700
    assert list((tmp_path / "elsewhere").iterdir()) == []
    prepared.runtime.rmdir()


def test_without_any_usable_runtime_folder_the_first_one_is_told(tmp_path: Path) -> None:
    home = Home.from_environment({"AIGW_HOME": str(tmp_path / "home"), "XDG_RUNTIME_DIR": str(tmp_path)})
    home = replace(home, other_runtimes=())
    home.runtime.touch()
    with pytest.raises(HomeError, match="set AIGW_HOME"):
        home.prepare()


@pytest.mark.parametrize("spelling", ["link", "link/", "real/../real", "link/../real", "./real"])
def test_a_home_is_the_same_home_however_its_path_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    wanted = Home.from_environment({"AIGW_HOME": str(tmp_path / "real")})
    assert Home.from_environment({"AIGW_HOME": spelling}) == wanted
    assert Home.from_environment({"AIGW_HOME": str(tmp_path / spelling)}) == wanted


def test_a_relative_home_in_a_folder_that_is_gone_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(HomeError, match="AIGW_HOME is the relative path 'here', and the working folder can't be used"):
        Home.from_environment({"AIGW_HOME": "here"})


def test_a_home_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    home = Home.from_environment({"AIGW_HOME": str(tmp_path / "file/home"), "XDG_RUNTIME_DIR": str(tmp_path)})
    with pytest.raises(HomeError, match="cannot use the folder"):
        home.prepare()


def test_a_second_lock_is_refused_with_the_holder(tmp_path: Path) -> None:
    held = acquire(tmp_path / "lock")
    with pytest.raises(AlreadyLocked) as refused:
        acquire(tmp_path / "lock")
    assert refused.value.pid == os.getpid()
    with ThreadPoolExecutor() as threads:
        patient = threads.submit(acquire, tmp_path / "lock", patience=10)
        os.close(held)
        os.close(patient.result())
    os.close(acquire(tmp_path / "lock"))
