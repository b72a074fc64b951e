"""Choosing a profile while no daemon runs: the choice is written where the next one finds it."""

import os

from aigw_daemon.control.choice import load_profile
from aigw_daemon.control.client import ControlError, Refused
from aigw_daemon.control.problems import Refusal
from aigw_daemon.home import Home
from aigw_daemon.lock import AlreadyLocked, acquire
from aigw_daemon.state_file import StateError, rewrite


def choose_profile(home: Home, name: str) -> str:
    """Make a profile the active one, by its name or path; returns its file.

    Raises Refused for one that can't be used, HomeError, and ControlError when the state can't be written or a daemon
    has just started.
    """
    try:
        profile = load_profile(home, name).profile
    except Refusal as refusal:
        raise Refused(refusal.problem) from refusal
    home.prepare()
    try:
        lock = acquire(home.lock)
    except AlreadyLocked as error:
        raise ControlError(f"{error}: run this again") from error
    try:
        rewrite(home, profile=profile.file)
    except StateError as error:
        raise ControlError(str(error)) from error
    except OSError as error:
        raise ControlError(f"cannot write {home.state_file}: {error.strerror}") from error
    finally:
        os.close(lock)
    return profile.file
