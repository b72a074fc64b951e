"""`aigw pull`: what a pull's events look like as plain lines, and its last words."""

from rich.text import Text

from aigw_cli.render.text import clean, file_size
from aigw_daemon.control.schema import PullEvent

_STEP = 10


def step(event: PullEvent) -> str | None:
    """What a plain log shows of this event: the phase, and its tenth; None for the end, which is told otherwise."""
    if event.phase in {"done", "failed"}:
        return None
    if event.phase != "downloading" or not event.total_bytes:
        return f"{clean(event.model)}: {event.phase}"
    tenth = event.done_bytes * 100 // event.total_bytes // _STEP * _STEP
    return f"{clean(event.model)}: {tenth} % of {file_size(event.total_bytes)}"


def done_line(event: PullEvent) -> Text:
    """The model is there: where, and whether it was before."""
    how = "is already there" if event.already else "is here"
    where = f": {clean(event.path)}" if event.path else ""
    return Text(f"{clean(event.model)} {how}{where}")
