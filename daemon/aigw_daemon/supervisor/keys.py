"""The secrets of a home: the keys that managed engines ask for, and the one from which keys of kept answers are made.

With an engine's key other users of this machine can't walk around the gateway. It is derived from one secret of the
home and the backend's name: a daemon that adopts an engine knows it again, and nothing but the secret is kept.
"""

import hmac
import secrets
from pathlib import Path
from typing import Final

from aigw_daemon.files import write_whole
from aigw_daemon.home import Home
from aigw_daemon.link.messages import Secret

_BYTES: Final = 32


def engine_key(home: Home, backend: str) -> Secret:
    """The key of a backend. Raises OSError when the secret can neither be read nor made."""
    return Secret(hmac.digest(_secret(home.state / "engines.secret"), backend.encode(), "sha256").hex())


def cache_secret(home: Home) -> Secret:
    """From which the keys of kept answers are made (rule B19), as hexadecimal digits. Raises OSError likewise."""
    return Secret(_secret(home.state / "cache.secret").hex())


def _secret(path: Path) -> bytes:
    try:
        known = path.read_bytes()
    except FileNotFoundError:
        known = b""
    return known if len(known) == _BYTES else _make(path)


def _make(path: Path) -> bytes:
    fresh = secrets.token_bytes(_BYTES)
    write_whole(path, fresh)
    return fresh
