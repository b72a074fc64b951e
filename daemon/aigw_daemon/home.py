"""Where everything of one aigw lives on disk: configuration, state, logs, models, sockets.

``AIGW_HOME`` moves all of it; without it the XDG folders are used. Paths are resolved first: a home is the same home
through a symlink or ``..``. Sockets live in a short runtime folder of their own, because a Unix socket's path stops at
107 bytes.
"""

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

PRIVATE_FOLDER = 0o700
PRIVATE_FILE = 0o600
_LONGEST_FOLDER = 107 - len("/control.sock")
"""Bytes that are left for the folder in a socket's path; see unix(7)."""


class HomeError(Exception):
    """A folder of aigw can't be used; the text says which, why and what to do."""


@dataclass(frozen=True)
class Home:
    """The folders of one aigw. Two different homes never touch each other's processes or files."""

    config: Path
    state: Path
    logs: Path
    models: Path
    runtime: Path
    """Folder of the sockets."""
    other_runtimes: tuple[Path, ...] = ()
    """Where the sockets go when ``runtime`` can't be used, in this order."""

    @classmethod
    def from_environment(cls, env: Mapping[str, str] = os.environ) -> "Home":
        """Read ``AIGW_HOME``, else the XDG variables, else their defaults.

        Raises HomeError for a relative ``AIGW_HOME`` in a working folder that is gone, and for a user without a home.
        """
        root = env.get("AIGW_HOME")
        if root:
            base = _resolved(root)
            runtime, *others = _runtime_folders(env, str(base), base / "state")
            return cls(
                config=base / "config",
                state=base / "state",
                logs=base / "logs",
                models=base / "models",
                runtime=runtime,
                other_runtimes=tuple(others),
            )
        user = _user_folder(env)
        state = _xdg(env, "XDG_STATE_HOME", user / ".local/state") / "aigw"
        runtime, *others = _runtime_folders(env, str(state), state)
        return cls(
            config=_xdg(env, "XDG_CONFIG_HOME", user / ".config") / "aigw",
            state=state,
            logs=state / "logs",
            models=_xdg(env, "XDG_DATA_HOME", user / ".local/share") / "aigw" / "models",
            runtime=runtime,
            other_runtimes=tuple(others),
        )

    @property
    def profiles(self) -> Path:
        """The user's own profiles."""
        return self.config / "profiles"

    @property
    def events_file(self) -> Path:
        """What happened to backends; its earlier part is beside it, with ``.1``."""
        return self.state / "events.ndjson"

    @property
    def lock(self) -> Path:
        """Held (flock) by the one daemon of this home."""
        return self.state / "daemon.lock"

    @property
    def state_file(self) -> Path:
        """What the daemon must know again after a crash."""
        return self.state / "state.json"

    @property
    def place_file(self) -> Path:
        """PID and sockets of the daemon; see `place`."""
        return self.state / "daemon.json"

    @property
    def kept_profile(self) -> Path:
        """The profile that was applied last, as it was then."""
        return self.state / "profile.json"

    @property
    def command_log(self) -> Path:
        """Tracebacks of the command line."""
        return self.logs / "aigw.log"

    @property
    def daemon_log(self) -> Path:
        """The daemon's own log."""
        return self.logs / "aigwd.log"

    @property
    def control_socket(self) -> Path:
        """Where the CLI reaches the daemon."""
        return self.runtime / "control.sock"

    @property
    def link_socket(self) -> Path:
        """Where the gateway worker reaches the daemon."""
        return self.runtime / "link.sock"

    @property
    def redis_socket(self) -> Path:
        """Where the managed Redis answers."""
        return self.runtime / "redis.sock"

    def prepare(self) -> "Home":
        """Make the folders, 0700 each, and what is missing above them (rule S13).

        Returns the home with the first runtime folder that can be used. Raises HomeError when another folder, or none
        of those, can be made, or belongs to somebody else.
        """
        for folder in (self.config, self.profiles, self.state, self.logs, self.models):
            private_folder(folder)
        first, *others = choices = (self.runtime, *self.other_runtimes)
        for folder in others:
            try:
                private_folder(first)
                break
            except HomeError:
                first = folder
        else:
            private_folder(first)
        return replace(self, runtime=first, other_runtimes=tuple(folder for folder in choices if folder != first))


def private_folder(folder: Path) -> None:
    """Make a folder of this user alone, and what is missing above it. Raises HomeError."""
    try:
        # One by one: with `parents=True` those above would get the umask's mode.
        for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
            missing.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise HomeError(f"{folder} must be a folder: move it away, or set AIGW_HOME to a folder of your own")
        if found.st_uid != os.getuid():
            raise HomeError(
                f"{folder} must be a folder of user {os.getuid()}, but it belongs to user {found.st_uid}: "
                "remove it, or set AIGW_HOME to a folder of your own"
            )
        if stat.S_IMODE(found.st_mode) != PRIVATE_FOLDER:
            folder.chmod(PRIVATE_FOLDER)
    except OSError as error:
        raise HomeError(f"cannot use the folder {folder}: {error.strerror}; set AIGW_HOME to one you own") from error


def _resolved(root: str) -> Path:
    try:
        return Path(os.path.realpath(os.path.expanduser(root)))  # noqa: PTH111  # leaves an unknown ~user as it is
    except OSError as error:
        raise HomeError(
            f"AIGW_HOME is the relative path {root!r}, and the working folder can't be used ({error.strerror}): "
            "make it absolute, or change to another folder"
        ) from error


def _user_folder(env: Mapping[str, str]) -> Path:
    try:
        return Path(env.get("HOME") or Path.home())
    except RuntimeError as error:
        raise HomeError(f"user {os.getuid()} has no home folder: set HOME or AIGW_HOME") from error


def _xdg(env: Mapping[str, str], variable: str, default: Path) -> Path:
    value = env.get(variable, "")
    # The XDG specification: a relative path in these variables is invalid and must be ignored.
    return Path(os.path.realpath(value if value.startswith("/") else default))


def _runtime_folders(env: Mapping[str, str], identity: str, state: Path) -> list[Path]:
    digest = hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()[:10]
    # Not TMPDIR: the folder's name must be the same for every shell of this user, whatever it exports.
    shared = Path("/tmp") / f"aigw-{os.getuid()}-{digest}"  # noqa: S108  # made 0700 and its owner checked in prepare()
    found = [shared, *([inner] if len(os.fsencode(inner := state / "run")) <= _LONGEST_FOLDER else [])]
    runtime = env.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and Path(runtime).is_dir():
        return [Path(runtime) / f"aigw-{digest}", *found]
    return found
