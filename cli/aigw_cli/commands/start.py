"""`aigw start`: start backends, and wait until they are ready."""

from aigw_cli.commands.options import AsJson, Backends
from aigw_cli.failure import ExitCode


def start(backends: Backends = None, as_json: AsJson = False) -> ExitCode:
    """Start backends and wait until they are ready."""
    from aigw_cli.screen import Screen
    from aigw_cli.session import daemon
    from aigw_cli.waiting import follow_to_ready

    names = backends or []
    with daemon() as client:
        status = client.start(names)
        return follow_to_ready(client, Screen(as_json=as_json), status, names, strict=bool(names))
