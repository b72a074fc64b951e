"""What `scripts/test` makes before it runs the tests: the environment, the small engines and the other programs."""

import sys

from scripts.setup import checkout, engines, programs
from scripts.setup.steps import told


def main() -> int:
    checkout.ensure(checkout.Kind.DEVELOPER)
    programs.ensure_redis()
    programs.ensure_tools()
    programs.ensure_node()
    programs.ensure_go()
    engines.main(["llamacpp"])
    return 0


if __name__ == "__main__":
    sys.exit(told(main))
