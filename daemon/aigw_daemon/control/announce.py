"""What a daemon in the foreground says on its terminal once it serves: where, which models, and how to stop it."""

from collections.abc import AsyncIterator, Callable, Iterator

from aigw_daemon.control.schema import BackendStatus, Status
from aigw_daemon.words import SERVING, State

STOP = "Ctrl-C stops everything."


async def announce(statuses: AsyncIterator[Status], say: Callable[[str], None]) -> None:
    """Say the address as soon as the gateway is ready, and the models once every backend is ready or has failed."""
    told = False
    async for status in statuses:
        if not told and status.gateway.state == State.READY:
            say(f"Gateway  {status.gateway.url}/v1\n{STOP}")
            told = True
        if told and all(_settled(backend) for backend in status.backends if backend.wanted):
            say("\n".join(_outcome(status)))
            return


def _outcome(status: Status) -> Iterator[str]:
    models = sorted({model for backend in status.backends if backend.state in SERVING for model in backend.models})
    yield f"Models   {', '.join(models) or 'none yet'}"
    if status.routes:
        yield f"Routes   {', '.join(status.routes)}"
    for backend in status.backends:
        if backend.state in {State.FAILED, State.UNREACHABLE}:
            yield f"{backend.name} {backend.state}: {backend.why}"
    yield STOP


def _settled(backend: BackendStatus) -> bool:
    if backend.state == State.UNREACHABLE:
        return backend.probed
    return backend.state in {*SERVING, State.SLEEPING, State.FAILED}
