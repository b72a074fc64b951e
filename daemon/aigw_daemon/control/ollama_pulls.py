"""A pull through an Ollama of the profile, as the control API tells it."""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

from aigw_daemon.control import choice
from aigw_daemon.control.problems import Refusal
from aigw_daemon.control.pulls import event
from aigw_daemon.control.schema import Problem, PullEvent, PullRequest
from aigw_daemon.models.ollama import OllamaPull, pull
from aigw_daemon.models.request import PullError
from aigw_daemon.supervisor.backend import BackendReport
from aigw_daemon.supervisor.supervisor import Supervisor
from aigw_daemon.words import SERVING, EngineKind, State, in_words


def check_request(supervisor: Supervisor, request: PullRequest) -> BackendReport:
    """The backend that shall pull. Raises Refusal when there is none of this name, or it is no Ollama."""
    reports = {report.name: report for report in supervisor.reports()}
    if request.backend not in reports:
        raise choice.unknown_backend(str(request.backend), list(reports))
    report = reports[request.backend]
    if report.engine is not EngineKind.OLLAMA:
        others = ", ".join(name for name, other in reports.items() if other.engine is EngineKind.OLLAMA)
        message = f"the backend {report.name} is {report.engine}, and only ollama pulls its models itself"
        raise Refusal(400, "invalid_request", message, hint=f"the backends that do: {others or 'none'}")
    if request.sha256 or request.name:
        message = "a pull through Ollama takes neither a checksum nor another name: its registry has both"
        raise Refusal(400, "invalid_request", message, hint="leave --sha256 and --name out")
    return report


async def ollama_pull_events(
    supervisor: Supervisor, request: PullRequest, publish: Callable[[], None]
) -> AsyncIterator[PullEvent]:
    """Each step of the pull; a failure is the last event. ``publish`` tells the gateway of the model before that."""
    name = str(request.backend)
    report = await _serving(supervisor, name)
    if report.state not in SERVING or report.address is None:
        yield _failed(request, _not_serving(report))
        return
    base = f"{report.address.url}{report.address.base_path.removesuffix('/v1')}"
    key = report.api_key.value if report.api_key is not None else None
    try:
        # No request shows that a pull runs: without a word the backend would look idle.
        with supervisor.using(name):
            async with aclosing(pull(OllamaPull(base, request.model, request.insecure, key))) as steps:
                async for step in steps:
                    if step.phase == "done":
                        await supervisor.refresh(name)
                        publish()
                    yield event(step)
    except PullError as error:
        yield _failed(request, Problem(code=f"pull_{error.reason}", message=str(error)))


async def _serving(supervisor: Supervisor, name: str) -> BackendReport:
    """How it is, once a start has had its time; one that waits to be wanted is started."""
    if _report(supervisor, name).state is State.STOPPED:
        supervisor.demand(name)
    await supervisor.settled([name])
    return _report(supervisor, name)


def _report(supervisor: Supervisor, name: str) -> BackendReport:
    return next(report for report in supervisor.reports() if report.name == name)


def _not_serving(report: BackendReport) -> Problem:
    why = f": {report.why}" if report.why else ""
    message = f"the backend {report.name} {in_words(report.state)}{why}"
    return Problem(code="backend_not_ready", message=message, hint=f"'aigw start {report.name}' starts it")


def _failed(request: PullRequest, problem: Problem) -> PullEvent:
    return PullEvent(phase="failed", model=request.model, error=problem)
