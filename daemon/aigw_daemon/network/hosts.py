"""What a host name or an address says by itself, without asking a resolver. Pure."""

import re
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

IpAddress = IPv4Address | IPv6Address

_NUMERIC: Final = re.compile(r"[0-9a-fx.]+", re.IGNORECASE)


def normalized(host: str) -> str:
    """In lower case, without brackets, the root's dot and the zone of a link-local address."""
    return host.removeprefix("[").removesuffix("]").lower().partition("%")[0].rstrip(".")


def address_of(host: str) -> IpAddress | None:
    """The address that a host is written as, ``127.1`` and ``::ffff:127.0.0.1`` included; None for a name."""
    host = normalized(host)
    try:
        address = ip_address(host)
    except ValueError:
        return _short_form(host)
    return getattr(address, "ipv4_mapped", None) or address


def is_loopback(host: str) -> bool:
    """Whether a host is this machine. Names aren't resolved: DNS could give another answer afterwards."""
    address = address_of(host)
    return normalized(host) == "localhost" if address is None else address.is_loopback


def is_this_machine(host: str) -> bool:
    """Whether a connection to the host stays on this machine: loopback, ``*.localhost`` (RFC 6761), ``0.0.0.0``."""
    address = address_of(host)
    if address is None:
        return f".{normalized(host)}".endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def ascii_host(host: str) -> str:
    """The host as DNS and HTTP write it: ``bücher.example`` as ``xn--bcher-kva.example``."""
    try:
        return host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        return host


def authority(host: str, port: int) -> str:
    """``HOST:PORT``, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _short_form(host: str) -> IPv4Address | None:
    """What the system's resolver takes as an IPv4 address of fewer parts: ``127.1``, ``0x7f000001``."""
    if not _NUMERIC.fullmatch(host) or not host[-1].isalnum():
        return None
    try:
        return IPv4Address(socket.inet_aton(host))
    except OSError:
        return None
