"""`aigw health`: the same facts as the gateway's /health, with an exit code for scripts."""

from aigw_cli.commands.options import AsJson
from aigw_cli.failure import ExitCode

WELL = "ok"


def health(as_json: AsJson = False) -> ExitCode:
    """Check overall health. Exits 0 only if everything is healthy."""
    from aigw_cli.render.health import health_lines
    from aigw_cli.screen import Screen
    from aigw_cli.session import daemon

    screen = Screen(as_json=as_json)
    with daemon() as client:
        report = client.health()
    if as_json:
        screen.document(report)
    else:
        screen.show(health_lines(report, screen.look))
    return ExitCode.OK if report.status == WELL else ExitCode.FAILED
