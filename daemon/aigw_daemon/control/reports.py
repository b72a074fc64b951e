"""From what the supervisor reports of a backend to what the operator sees and what the worker routes on (pure)."""

from dataclasses import asdict

from aigw_daemon.control.example import example
from aigw_daemon.control.schema import BackendStatus, LoadedModel
from aigw_daemon.link.messages import BackendView
from aigw_daemon.supervisor.backend import BackendReport
from aigw_daemon.words import State


def backend_status(report: BackendReport, in_flight: int, warnings: list[str]) -> BackendStatus:
    """One row of `aigw status`."""
    return BackendStatus(
        name=report.name,
        engine=report.engine.value,
        state=report.state,
        pid=report.pid,
        address=report.address.url if report.address else None,
        gpus=list(report.gpus),
        memory_bytes=report.memory_bytes,
        models=[model.id for model in report.models if model.listed_at is None],
        example=example(report.models),
        loaded=[LoadedModel(**asdict(model)) for model in report.loaded],
        uptime_s=report.uptime_s,
        since_s=report.since_s,
        restarts=report.restarts,
        in_flight=in_flight,
        why=report.why,
        probed=report.probed,
        progress=report.progress,
        log_tail=list(report.log_tail),
        telling=report.telling,
        managed=not report.attached,
        stale=report.stale,
        wanted=report.wanted,
        parted=report.leaving,
        warnings=[*report.warnings, *warnings],
    )


def backend_view(report: BackendReport, *, held: bool, last_start_s: float | None) -> BackendView:
    """What the worker knows of it. ``held``: the operator has stopped it, so no request may start it."""
    address = report.address
    return BackendView(
        name=report.name,
        engine=report.engine,
        state=_state_for_requests(report),
        since=report.since,
        host=address.host if address else "",
        port=address.port if address else 0,
        tls=address.tls if address else False,
        base_path=address.base_path if address else "/v1",
        models=report.models,
        api_key=report.api_key,
        why=report.why,
        max_concurrency=report.max_concurrency,
        wanted=not held,
        last_start_s=last_start_s,
        pid=report.pid,
        returning=not held and _is_returning(report),
        revision=report.revision,
        egress=report.egress,
        has_list=report.has_list,
    )


def _is_returning(report: BackendReport) -> bool:
    """Whether it is on its way from one process to the next: killed, crashed, hung, or restarted by the operator."""
    between = report.state in {State.DRAINING, State.STOPPING, State.BACKOFF}
    return between and report.wanted and not report.leaving


def _state_for_requests(report: BackendReport) -> State:
    """One that was idle, or makes way for another, is as good as stopped: a request for it waits and starts it again.

    Its drain is for the requests that it has; a new one that was turned away now would only have come too early.
    """
    if report.leaving and report.state in {State.DRAINING, State.STOPPING}:
        return State.STARTING if report.wanted else State.STOPPED
    return report.state
