"""Why a backend is where it is, in one sentence, with the lines that show it and the next step (pure)."""

from types import MappingProxyType
from typing import Final

from aigw_daemon.control.schema import Why
from aigw_daemon.supervisor.backend import BackendReport, Past
from aigw_daemon.supervisor.failures import FailureKind
from aigw_daemon.words import SERVING, State, in_words

_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86400

_BY_ITSELF = "aigw retries as soon as that changes; 'aigw start {name}' retries now"
_PROFILE = "change the profile, then 'aigw up'"
_REPLACED = "aigw replaces it; 'aigw logs {name}' shows more"

NEXT: Final = MappingProxyType(
    {
        FailureKind.MISSING_BINARY: _BY_ITSELF,
        FailureKind.MISSING_MODEL: _BY_ITSELF,
        FailureKind.GATED_MODEL: "once you have access, 'aigw start {name}'",
        FailureKind.MISSING_GPU: "change gpus in the profile, then 'aigw up'",
        FailureKind.BAD_SETTING: "fix that, then 'aigw up'",
        FailureKind.BAD_FLAG: _PROFILE,
        FailureKind.PORT_TAKEN: "free the port, then 'aigw start {name}'; or choose another one in the profile",
        FailureKind.OUT_OF_MEMORY: "'aigw status' shows memory per backend; change the profile, then 'aigw up'",
        FailureKind.MODEL_UNREADABLE: _BY_ITSELF,
        FailureKind.WRONG_MODEL: _PROFILE,
        FailureKind.START_TIMEOUT: "'aigw logs {name}' shows how far it got",
        FailureKind.CRASH_LOOP: "'aigw logs {name}' shows more; 'aigw start {name}' retries now",
        FailureKind.UNRESPONSIVE: _REPLACED,
        FailureKind.HUNG: "aigw replaces it; if its requests are merely slow, raise hang_timeout in the profile",
        FailureKind.OOM_KILLED: "'aigw status' shows memory per backend; change the profile, then 'aigw up'",
        FailureKind.UNKILLABLE: "'dmesg' shows what they wait for; once they are gone, 'aigw start {name}'",
        FailureKind.EXITED: "'aigw logs {name}' shows more",
        FailureKind.NO_RESOURCES: "free the missing resource; aigw retries on its own",
        FailureKind.INTERNAL: "'aigw logs daemon' has the traceback; 'aigw start {name}' retries",
    }
)
"""What an operator does about each class of failure."""


def explain(report: BackendReport, in_flight: int, *, held: bool, now: float) -> Why:
    """Tell it. ``held``: the operator has stopped it; ``now`` in seconds since the epoch."""
    if report.failure is not None and report.state not in SERVING:
        return _trouble(report)
    past = report.past
    return Why(
        name=report.name,
        state=report.state,
        well=report.state is State.READY,
        sentence=_sentence(report, in_flight, held=held, now=now),
        failure=past.failure.kind if past is not None else None,
        lines=list(past.failure.lines) if past is not None and report.state is not State.STOPPED else [],
        next=_next(report, held=held),
    )


def _trouble(report: BackendReport) -> Why:
    failure = report.failure or FailureKind.INTERNAL
    return Why(
        name=report.name,
        state=report.state,
        well=False,
        sentence=f"{in_words(report.state)}: {report.why or failure}",
        failure=failure,
        lines=list(report.log_tail),
        next=NEXT[failure].format(name=report.name),
    )


def _sentence(report: BackendReport, in_flight: int, *, held: bool, now: float) -> str:
    since = duration(report.since_s)
    match report.state:
        case State.READY:
            return f"has been ready for {duration(report.uptime_s or 0.0)}, and {_restarts(report, now)}"
        case State.STARTING:
            said = " · ".join(filter(None, (report.why, report.progress)))
            return f"has been starting for {since}{f': {said}' if said else ''}"
        case State.DRAINING:
            return f"has been draining for {since}: {_requests(in_flight)} may finish before it stops"
        case State.STOPPED:
            return f"has been stopped for {since}{_stopped(report, held=held)}"
        case _:
            why = f": {report.why}" if report.why else ""
            return f"has been {report.state} for {since}{why}{_listed(report, now)}"


def _listed(report: BackendReport, now: float) -> str:
    """What it had when it was last asked; requests for that are turned away for now, not as unknown."""
    before = [model.listed_at for model in report.models if model.listed_at is not None]
    if not before:
        return ""
    return f"; it listed {'1 model' if len(before) == 1 else f'{len(before)} models'} {duration(now - before[0])} ago"


def _stopped(report: BackendReport, *, held: bool) -> str:
    if held:
        return ", by the operator"
    return f", {report.why.removeprefix('stopped ')}" if report.why else ": no pending requests"


def _restarts(report: BackendReport, now: float) -> str:
    if report.attached:
        return "aigw does not run it"
    if not report.restarts:
        return "was never restarted"
    times = "once" if report.restarts == 1 else f"{report.restarts} times"
    return f"was restarted {times}{_last(report.past, now)}"


def _last(past: Past | None, now: float) -> str:
    return f", the last time {duration(now - past.at)} ago: {past.failure.sentence}" if past is not None else ""


def _requests(count: int) -> str:
    return "1 request" if count == 1 else f"{count} requests"


def _next(report: BackendReport, *, held: bool) -> str | None:
    match report.state:
        case State.STOPPED:
            return f"'aigw start {report.name}' starts it" + ("" if held else ", and so does a request for its model")
        case State.STARTING:
            return f"'aigw logs {report.name} -f' follows the start"
        case State.DRAINING:
            return f"'aigw stop {report.name} --now' skips the wait"
        case State.DEGRADED if not report.attached:
            return f"aigw replaces it if that lasts; 'aigw logs {report.name}' has more"
        case State.DEGRADED | State.UNREACHABLE:
            return "check that server; aigw only probes it"
        case _:
            return None


def duration(seconds: float) -> str:
    """In words: ``4 s``, ``3 min``, ``2 h 5 min``, ``4 days``."""
    whole = max(0, int(seconds))
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min"
    if whole < _DAY:
        minutes = whole % _HOUR // _MINUTE
        return f"{whole // _HOUR} h" + (f" {minutes} min" if minutes else "")
    return "1 day" if whole < 2 * _DAY else f"{whole // _DAY} days"
