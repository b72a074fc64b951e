"""Where everything of one aigw lives on disk: configuration, state, logs, models, sockets.

``AIGW_HOME`` moves all of it; without it the XDG folders are used. Sockets live in a short runtime folder of their
own, because a Unix socket's path stops at 107 bytes.
"""

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PRIVATE_FOLDER = 0o700
PRIVATE_FILE = 0o600


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

    @classmethod
    def from_environment(cls, env: Mapping[str, str] = os.environ) -> "Home":
        """Read ``AIGW_HOME``, else the XDG variables, else their defaults."""
        root = env.get("AIGW_HOME")
        if root:
            base = Path(root).expanduser().absolute()
            return cls(
                config=base / "config",
                state=base / "state",
                logs=base / "logs",
                models=base / "models",
                runtime=_runtime_folder(env, str(base)),
            )
        user = Path(env.get("HOME") or Path.home())
        state = _xdg(env, "XDG_STATE_HOME", user / ".local/state") / "aigw"
        return cls(
            config=_xdg(env, "XDG_CONFIG_HOME", user / ".config") / "aigw",
            state=state,
            logs=state / "logs",
            models=_xdg(env, "XDG_DATA_HOME", user / ".local/share") / "aigw" / "models",
            runtime=_runtime_folder(env, str(state)),
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

    def prepare(self) -> None:
        """Make the folders, 0700 each, and what is missing above them (rule S13).

        Raises HomeError when one can't be made, or belongs to somebody else.
        """
        for folder in (self.config, self.profiles, self.state, self.logs, self.models, self.runtime):
            _private_folder(folder)


def _xdg(env: Mapping[str, str], variable: str, default: Path) -> Path:
    value = env.get(variable, "")
    # The XDG specification: a relative path in these variables is invalid and must be ignored.
    return Path(value) if value.startswith("/") else default


def _runtime_folder(env: Mapping[str, str], identity: str) -> Path:
    digest = hashlib.sha256(identity.encode()).hexdigest()[:10]
    runtime = env.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and Path(runtime).is_dir():
        return Path(runtime) / f"aigw-{digest}"
    # Not TMPDIR: the folder's name must be the same for every shell of this user, whatever it exports.
    return Path("/tmp") / f"aigw-{os.getuid()}-{digest}"  # noqa: S108  # made 0700 and its owner checked in prepare()


def _private_folder(folder: Path) -> None:
    try:
        # One by one: with `parents=True` those above would get the umask's mode.
        for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
            missing.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise HomeError(
                f"{folder} must be a folder of user {os.getuid()}, but it belongs to user {found.st_uid}: "
                "remove it, or set AIGW_HOME to a folder of your own"
            )
        if stat.S_IMODE(found.st_mode) != PRIVATE_FOLDER:
            folder.chmod(PRIVATE_FOLDER)
    except OSError as error:
        raise HomeError(f"cannot use the folder {folder}: {error.strerror}; set AIGW_HOME to one you own") from error
