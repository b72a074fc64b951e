"""`aigw --version`."""

import typer


def print_version(asked: bool) -> None:
    """Print the version of this installation, and end."""
    if not asked:
        return
    from aigw_daemon.version import AIGW_VERSION

    typer.echo(f"aigw {AIGW_VERSION}")
    raise typer.Exit
