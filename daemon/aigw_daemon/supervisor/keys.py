"""The keys that managed engines ask for, so that other users of this machine can't walk around the gateway.

A key is derived from one secret of the home and the backend's name: a daemon that adopts an engine knows it again,
and nothing but the secret is kept.
"""

import hmac
import secrets
from pathlib import Path
from typing import Final

from aigw_daemon.home import Home
from aigw_daemon.link.messages import Secret
from aigw_daemon.state_file import write_whole

_BYTES: Final = 32


def engine_key(home: Home, backend: str) -> Secret:
    """The key of a backend. Raises OSError when the secret can neither be read nor made."""
    return Secret(hmac.digest(_secret(home.state / "engines.secret"), backend.encode(), "sha256").hex())


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
