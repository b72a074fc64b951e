"""`aigw stop`: stop backends; they stay stopped until somebody starts them again."""

from aigw_cli.commands.options import AsJson, Backends, Now
from aigw_cli.failure import CommandError, ExitCode


def stop(backends: Backends = None, now: Now = False, as_json: AsJson = False) -> ExitCode:
    """Stop backends; they stay stopped until 'start' or 'up'."""
    from aigw_cli.render.up import change_line, stopping
    from aigw_cli.screen import Screen
    from aigw_cli.session import daemon
    from aigw_cli.settle import began_again

    names = backends or []
    screen = Screen(as_json=as_json)
    with daemon() as client, screen.busy(stopping(now=now)):
        status = client.stop(names, now=now)
    if as_json:
        screen.document(status)
    else:
        shown = [backend for backend in status.supervised if backend.name in names] if names else status.backends
        screen.show(map(change_line, shown))
    if again := began_again(status, names):
        raise CommandError(f"started again meanwhile by another command: {', '.join(b.name for b in again)}")
    return ExitCode.OK
