"""What is built from this checkout holds what it must, and what is locked is locked by hash, without an address."""

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.support.checkout_copy import CheckoutCopy, copy_checkout
from tests.support.engines import CHECKOUT

LOCKS = ("requirements.lock", "requirements-dev.lock")
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
SCRIPTS = ("scripts/quickstart", "scripts/test", "scripts/check", "scripts/engines", "scripts/lock", ".ci/run")


@pytest.fixture
def checkout(tmp_path: Path) -> CheckoutCopy:
    return copy_checkout(tmp_path)


def pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True, timeout=100)


def test_a_wheel_holds_both_packages_and_the_shipped_profiles(checkout: CheckoutCopy, tmp_path: Path) -> None:
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", tmp_path, checkout.root)
    with zipfile.ZipFile(next(tmp_path.glob("aigw-*.whl"))) as wheel:
        names = wheel.namelist()

    shipped = {f"aigw_daemon/profile/shipped/{path.name}" for path in (CHECKOUT / "profiles").glob("*.yaml")}
    assert shipped
    assert shipped <= set(names)
    assert {"aigw_cli/__init__.py", "aigw_daemon/__init__.py"} <= set(names)
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"aigw_cli", "aigw_daemon", "aigw"}


def test_an_editable_install_is_a_plain_path_file(checkout: CheckoutCopy, tmp_path: Path) -> None:
    target = tmp_path / "site-packages"
    pip("install", "--no-deps", "--no-build-isolation", "--no-index", "--target", target, "--editable", checkout.root)

    path_file = next(target.glob("*.pth"))
    assert path_file.read_text().split() == [str(checkout.root / "cli"), str(checkout.root / "daemon")]
    assert not (target / "aigw_daemon").exists()


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_has_a_hash_and_none_an_address(lock: str) -> None:
    text = (CHECKOUT / lock).read_text()
    packages = re.split(r"\n(?=\w)", text.strip())

    assert [package for package in packages if "--hash=sha256:" not in package] == []
    assert [package for package in packages if not re.match(r"[\w.-]+==\S+", package)] == []
    assert "://" not in text
    assert "--index-url" not in text


def locked(lock: str) -> dict[str, str]:
    """Package names and versions."""
    pins = re.findall(r"^([\w.-]+)==(\S+)", (CHECKOUT / lock).read_text(), flags=re.MULTILINE)
    return {name.lower(): version for name, version in pins}


def names(requirements: list[str]) -> set[str]:
    # As lock files spell them: PEP 503.
    return {re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", each)[0]).lower() for each in requirements}


def test_the_locks_hold_all_that_the_project_asks_for() -> None:
    project, groups = PROJECT["project"], PROJECT["dependency-groups"]
    operator = project["dependencies"] + project["optional-dependencies"]["embedded"] + groups["build"]

    assert names(operator) - locked("requirements.lock").keys() == set()
    assert names(operator + groups["dev"]) - locked("requirements-dev.lock").keys() == set()


def test_developers_run_what_operators_run() -> None:
    operator, developer = locked("requirements.lock"), locked("requirements-dev.lock")

    assert operator.items() <= developer.items()


def test_the_build_backend_is_locked_as_it_is_required() -> None:
    assert PROJECT["build-system"]["requires"] == PROJECT["dependency-groups"]["build"]


def test_the_node_clients_are_locked_by_integrity_without_an_address() -> None:
    text = (CHECKOUT / "tests" / "support" / "node" / "package-lock.json").read_text()
    packages = {name: package for name, package in json.loads(text)["packages"].items() if name}

    assert packages
    assert [name for name, package in packages.items() if "integrity" not in package] == []
    assert "://" not in text


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_can_be_run_and_parses(script: str) -> None:
    path = CHECKOUT / script

    assert path.stat().st_mode & 0o111
    subprocess.run(["sh", "-n", str(path)], check=True, timeout=10)


def test_pre_commit_fetches_nothing() -> None:
    config = yaml.safe_load((CHECKOUT / ".pre-commit-config.yaml").read_text())

    assert {repository["repo"] for repository in config["repos"]} == {"local"}
    assert {hook["language"] for repository in config["repos"] for hook in repository["hooks"]} == {"system"}
