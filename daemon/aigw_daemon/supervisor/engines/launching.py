"""What engines have in common when they are started: finding the program, and its environment."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from aigw_daemon.profile.scalars import MissingVariableError, Secret
from aigw_daemon.supervisor.failures import FailureKind, unrunnable


def own_environment(backend: str, env: Mapping[str, Secret], environ: Mapping[str, str]) -> dict[str, str]:
    """What a backend's ``env`` says, ``${VARIABLE}`` taken from the daemon's. Raises Unrunnable."""
    try:
        return {name: secret.expand(environ) for name, secret in env.items()}
    except MissingVariableError as error:
        raise unrunnable(FailureKind.BAD_SETTING, f"env of the backend {backend}: {error}") from error


def program(name: str, path: str, advice: str) -> str:
    """The program of this name, or at this place, as an absolute path (rule A6). Raises Unrunnable with the advice."""
    found = shutil.which(str(Path(name).expanduser()) if "/" in name else name, path=path)
    if found is None:
        raise unrunnable(FailureKind.MISSING_BINARY, f"the program {name} is not there or not executable: {advice}")
    return found
