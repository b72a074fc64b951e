"""The same policy for pip, which reads the environment itself. Pure.

pip applies `NO_PROXY` by its own rules (names and IPv4 networks) and resolves names of ``socks5://`` itself: the
variables are rewritten so that it does what the policy says. pip's own settings, such as `PIP_CERT`, stay in force.
"""

from collections.abc import Mapping
from typing import Final

from aigw_daemon.network.problems import BadEnvironment
from aigw_daemon.network.proxies import full_url, parse_proxy, proxy_for, proxy_variable, variable_of
from aigw_daemon.network.trust import FILE_VARIABLE, FOLDER_VARIABLE

_SCHEMES: Final = ("http", "https")
_LOOPBACK: Final = "localhost,127.0.0.0/8,::1"
_ANYWHERE: Final = "https://index.invalid"
"""Stands for the package index, whose address only pip knows: any name that no NO_PROXY excludes."""


def pip_environment(env: Mapping[str, str]) -> dict[str, str]:
    """``env`` with the variables that pip reads. A value that can't be used is left as it is: see `pip_problem`."""
    names = [f"{scheme}_proxy" for scheme in (*_SCHEMES, "all")]
    found = {name: value for name, value in env.items() if name.lower() not in {*names, "no_proxy"}}
    for scheme in _SCHEMES:
        variable, value = proxy_variable(scheme, env)
        if value:
            found[f"{scheme}_proxy"] = _rewritten(variable, value)
    found["no_proxy"] = ",".join(filter(None, (variable_of("no_proxy", env)[1], _LOOPBACK)))
    if store := env.get(FILE_VARIABLE) or env.get(FOLDER_VARIABLE):
        found.setdefault("PIP_CERT", store)
    return found


def pip_problem(env: Mapping[str, str]) -> str | None:
    """What is wrong with the environment, should pip have failed."""
    try:
        proxy_for(_ANYWHERE, env)
    except BadEnvironment as problem:
        return str(problem)
    return None


def _rewritten(variable: str, value: str) -> str:
    try:
        return full_url(parse_proxy(variable, value))
    except ValueError:
        return value
