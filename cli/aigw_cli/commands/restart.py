"""`aigw restart`: stop and start backends, and wait until they are ready again."""

from aigw_cli.commands.options import AsJson, Backends, Now
from aigw_cli.failure import ExitCode


def restart(backends: Backends = None, now: Now = False, as_json: AsJson = False) -> ExitCode:
    """Restart backends and wait until they are ready."""
    from aigw_cli.render.up import stopping
    from aigw_cli.screen import Screen
    from aigw_cli.session import daemon
    from aigw_cli.waiting import follow_to_ready

    names = backends or []
    screen = Screen(as_json=as_json)
    with daemon() as client:
        with screen.busy(stopping(now=now)):
            status = client.restart(names, now=now)
        return follow_to_ready(client, screen, status, names, strict=bool(names))
