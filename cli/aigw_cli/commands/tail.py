"""`aigw tail`: requests as they finish."""

from aigw_cli.commands.options import AsJson
from aigw_cli.failure import ExitCode


def tail(as_json: AsJson = False) -> ExitCode:
    """Show requests as they finish; --json: as they begin, too."""
    from aigw_cli.explain import went_away
    from aigw_cli.render.tail import heading, record_lines
    from aigw_cli.screen import Screen
    from aigw_cli.session import daemon

    screen = Screen(as_json=as_json)
    with daemon() as client:
        if not as_json:
            # The titles stand there while nothing comes, but only if there is a daemon for something to come from.
            client.status()
            screen.show([heading(screen.look)])
        for event in client.tail():
            if as_json:
                screen.record(event)
            elif event.get("event") == "finished":
                screen.show(record_lines(event, screen.look))
    raise went_away()
