"""A profile's file that is edited while it runs."""

import os
from pathlib import Path

from aigw_daemon.control.edits import LoadedFile


def test_an_edit_is_seen_and_one_that_is_taken_back_is_none(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("version: 1\n")
    loaded = LoadedFile(file, file.read_bytes())
    assert not loaded.edited
    os.utime(file, (1, 1))
    assert not loaded.edited
    file.write_text("version: 1\nbackends: {}\n")
    assert loaded.edited
    fresh = tmp_path / "new"
    fresh.write_text("version: 1\n")
    fresh.replace(file)
    assert not loaded.edited


def test_a_file_that_is_gone_or_no_file_any_more_was_edited(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("version: 1\n")
    loaded = LoadedFile(file, file.read_bytes())
    file.unlink()
    assert loaded.edited
    os.mkfifo(file)
    assert loaded.edited
