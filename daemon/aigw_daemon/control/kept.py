"""The profile that runs, as it was applied: a new daemon goes on with it when the file has been broken since."""

import logging

import msgspec

from aigw_daemon.control.choice import Chosen
from aigw_daemon.files import write_whole
from aigw_daemon.home import Home
from aigw_daemon.profile.errors import ProfileError
from aigw_daemon.profile.load import parse

log = logging.getLogger(__name__)


class _Kept(msgspec.Struct):
    file: str
    content: bytes


def keep(home: Home, chosen: Chosen) -> None:
    """Write it down, 0600; a disk that refuses is reported in the log only."""
    kept = msgspec.json.encode(_Kept(chosen.profile.file, chosen.content))
    try:
        if not home.kept_profile.exists() or home.kept_profile.read_bytes() != kept:
            write_whole(home.kept_profile, kept)
    except OSError as error:
        log.warning("cannot write %s: %s; a new daemon needs the profile's file", home.kept_profile, error.strerror)


def kept(home: Home, file: str) -> Chosen | None:
    """The profile of this file as it was applied last; None where it was not kept, or is unknown to this version."""
    try:
        found = msgspec.json.decode(home.kept_profile.read_bytes(), type=_Kept)
        return Chosen(parse(found.content, found.file), found.content) if found.file == file else None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, ProfileError):
        return None
