"""Where the daemon of a home is: its PID and its sockets, in a file of the state folder.

The folder of the sockets depends on the environment and may have to change while the daemon runs. The state folder does
neither: commands, workers and the next daemon look here first.
"""

import os
from dataclasses import replace
from pathlib import Path

import msgspec

from aigw_daemon.files import write_whole
from aigw_daemon.home import Home
from aigw_daemon.identity import boot_id, start_ticks


class Place(msgspec.Struct, frozen=True):
    """One daemon, by PID, start and boot, and its sockets."""

    pid: int
    start_ticks: int
    boot_id: str
    state: str
    """The state folder: a copy of this file in another home says nothing."""
    control: str
    link: str

    @property
    def alive(self) -> bool:
        """Whether this very daemon still runs."""
        return self.boot_id == boot_id() and self.start_ticks == start_ticks(self.pid)


def here(home: Home) -> Place:
    """The calling process as the daemon of ``home``."""
    pid = os.getpid()
    return Place(
        pid, start_ticks(pid) or 0, boot_id(), str(home.state), str(home.control_socket), str(home.link_socket)
    )


def read(path: Path) -> Place | None:
    """What the file says; None where it can't be read or is of another boot or home."""
    try:
        place = msgspec.json.decode(path.read_bytes(), type=Place)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return place if place.state == str(path.parent) and place.boot_id == boot_id() else None


def keep(home: Home, place: Place) -> None:
    """Write it, unless the file says so already. Raises OSError."""
    if read(home.place_file) != place:
        write_whole(home.place_file, msgspec.json.encode(place) + b"\n")


def located(home: Home) -> Home:
    """The home with the runtime folder in which its daemon has its sockets now; as it is when no daemon runs."""
    place = read(home.place_file)
    return home if place is None or not place.alive else _with_runtime(home, place)


def remembered(home: Home) -> Home:
    """For a new daemon: the runtime folder of the last one is preferred, where workers and Redis still look."""
    place = read(home.place_file)
    return home if place is None else _with_runtime(home, place)


def _with_runtime(home: Home, place: Place) -> Home:
    known = Path(place.control).parent
    others = tuple(folder for folder in (home.runtime, *home.other_runtimes) if folder != known)
    return replace(home, runtime=known, other_runtimes=others)
