"""Prints the profile that the quickstart runs: `starter`, or for another port a copy of it among the user's profiles.

Run by the checkout's `.venv`: `python -m scripts.setup.starter PORT`.
"""

import sys

from aigw_daemon.home import Home, HomeError
from scripts.setup.steps import SetupError, told, write_last
from tests.support.engines import CHECKOUT

SHIPPED = CHECKOUT / "profiles" / "starter.yaml"
DEFAULT_PORT = 4000


def profile_for(port: int) -> str:
    """The profile's name. A copy that is there already, perhaps edited by its owner, is left as it is."""
    if port == DEFAULT_PORT:
        return SHIPPED.stem
    home = Home.from_environment()
    copy = home.profiles / f"starter-{port}.yaml"
    if not copy.exists():
        try:
            home.prepare()
        except HomeError as error:
            raise SetupError(str(error)) from error
        write_last(copy, with_port(SHIPPED.read_text(), port))
    return copy.stem


def with_port(profile: str, port: int) -> str:
    """The text of a profile with the gateway on `port`. Raises SetupError when it has a gateway section already."""
    lines = profile.splitlines()
    if any(line.startswith("gateway:") for line in lines):
        raise SetupError(f"cannot make a profile for port {port}: {SHIPPED} has a `gateway` section of its own")
    # The editors' schema is named by a path that holds beside the shipped profiles only.
    kept = [line for line in lines if not line.startswith("# yaml-language-server:")]
    return "\n".join([*kept, "", f"gateway: {{port: {port}}}", ""])


def main() -> int:
    print(profile_for(int(sys.argv[1])))
    return 0


if __name__ == "__main__":
    sys.exit(told(main))
