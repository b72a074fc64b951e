"""Read `NO_PROXY`: which hosts are reached without a proxy. Pure.

Entries are separated by commas or blanks. An entry is ``*``, a host, a domain (with or without a leading dot: it stands
for itself and everything below it), an address, or a network in CIDR notation. A host or an address may have a port; an
IPv6 address may have brackets. Names are not resolved.
"""

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

from aigw_daemon.network.hosts import address_of, normalized

_SEPARATORS: Final = re.compile(r"[,\s]+")
_WITH_PORT: Final = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]+):(?P<port>[0-9]{1,5})")
_IPV4_PARTS: Final = 4


def is_excluded(text: str, host: str, port: int) -> bool:
    """Whether ``text``, the value of `NO_PROXY`, excludes the host. Raises ValueError for a bad network in it."""
    return any(_matches(entry, host, port) for entry in _SEPARATORS.split(text) if entry)


def _matches(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    if "/" in entry:
        address = address_of(host)
        return address is not None and address in _network(entry)
    if (found := _WITH_PORT.fullmatch(entry)) is not None:
        return int(found["port"]) == port and _is_host(found["host"], host)
    return _is_host(entry, host)


def _is_host(entry: str, host: str) -> bool:
    address = address_of(entry)
    if address is not None:
        return address == address_of(host)
    domain, name = normalized(entry.removeprefix("*").removeprefix(".")), normalized(host)
    return bool(domain) and f".{name}".endswith(f".{domain}")


def _network(entry: str) -> IPv4Network | IPv6Network:
    address, _, prefix = entry.partition("/")
    address = normalized(address)
    if ":" not in address:  # 169.254/16 stands for 169.254.0.0/16
        address += ".0" * (_IPV4_PARTS - len(address.split(".")))
    try:
        return ip_network(f"{address}/{prefix.removesuffix(']')}", strict=False)
    except ValueError as error:
        raise ValueError(entry) from error
