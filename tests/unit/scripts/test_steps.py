"""Failures of a set-up are told in one sentence where their cause is known, else in the command's own words."""

import errno
import fcntl
from pathlib import Path

import pytest

from scripts.setup.steps import LOG, SetupError, failure, is_stamped, locked, run, told, works, write_last


@pytest.mark.parametrize(
    "words",
    [
        "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
        "npm error nospc ENOSPC: no space left on device, write\nNo space left on device",
    ],
)
def test_a_full_disk_is_told_in_one_sentence(words: str) -> None:
    assert failure(["pip"], 1, words).startswith("cannot go on: no space is left on the disk of ")
    assert "\n" not in failure(["pip"], 1, words)


def test_a_missing_network_is_told_in_one_sentence() -> None:
    words = (
        "WARNING: Retrying: NewConnectionError: Failed to establish a new connection\nERROR: No matching distribution"
    )

    assert failure(["pip"], 1, words).startswith("cannot reach the package index: check the network")
    assert "\n" not in failure(["pip"], 1, words)


def test_an_unknown_failure_shows_the_last_lines_and_the_command(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SetupError) as caught:
        run(["sh", "-c", "echo something odd; exit 3"])

    assert str(caught.value) == (
        f"something odd\ncannot go on: this command ended with status 3; its whole output is in {LOG}:\n"
        "  sh -c echo something odd; exit 3"
    )
    assert capfd.readouterr().out == ""


def test_output_of_what_succeeds_is_in_the_log_alone(capfd: pytest.CaptureFixture[str]) -> None:
    run(["sh", "-c", "echo Collecting a-package"])
    assert capfd.readouterr() == ("", "")
    assert LOG.read_text().endswith("Collecting a-package\n")


def test_a_missing_command_is_named() -> None:
    with pytest.raises(SetupError, match="cannot run no-such-program: No such file or directory"):
        run(["no-such-program"])


def test_a_trial_that_hangs_does_not_work() -> None:
    assert not works(["sleep", "60"], timeout=0.1)


def test_an_error_ends_a_script_with_its_text_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise SetupError("cannot find it: look there")

    assert told(fail) == 1
    assert capsys.readouterr().err == "cannot find it: look there\n"


def test_a_full_disk_met_by_the_script_itself_is_told_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere")

    assert told(fail) == 1
    assert capsys.readouterr().err.startswith("cannot go on: no space is left on the disk of somewhere;")


def test_an_interrupt_has_its_own_status(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> int:
        raise KeyboardInterrupt

    assert told(interrupt) == 130
    assert "interrupted" in capsys.readouterr().err


def test_nobody_else_works_on_a_locked_folder(tmp_path: Path) -> None:
    with locked(tmp_path / "engine"), (tmp_path / "engine.lock").open() as handle, pytest.raises(BlockingIOError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_stamp_says_exactly_what_was_written(tmp_path: Path) -> None:
    stamp = tmp_path / "stamp"
    write_last(stamp, "recipe\n")

    assert is_stamped(stamp, "recipe\n")
    assert not is_stamped(stamp, "another recipe\n")
    assert not is_stamped(tmp_path / "none", "recipe\n")
    assert [path.name for path in tmp_path.iterdir()] == ["stamp"]
