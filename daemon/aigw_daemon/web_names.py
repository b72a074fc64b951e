"""How host names and web origins are written, in requests and in profiles. Pure.

One place for both sides: what the gateway advises when it refuses one is then what a profile accepts.
"""

import re
from typing import Final

_NAME: Final = r"[A-Za-z0-9._~-]{1,253}"
_PORT: Final = r"(?::[0-9]{1,5})?"
_WEB: Final = rf"(?:https?|HTTPS?)://(?:\[[0-9A-Fa-f:.]+\]|{_NAME}){_PORT}"
# Applications that show web pages have schemes of their own, some of them without a host.
_APP_SCHEME: Final = r"(?!https?:|HTTPS?:)[A-Za-z][A-Za-z0-9+.-]{0,63}://"
_APP: Final = rf"{_APP_SCHEME}(?:{_NAME}{_PORT})?"

AUTHORITY: Final = re.compile(rf"(?:\[[0-9A-Fa-f:.%]+\]|{_NAME}){_PORT}".encode())
"""A Host header: a name, an IPv4 or a bracketed IPv6 address, and maybe a port (RFC 9110, 7.2)."""

ORIGIN: Final = re.compile(f"null|{_WEB}|{_APP}")
"""An Origin header, as RFC 6454 serialises it: programs read a user, a path or a tab in one in different ways."""

ALLOWED_HOST: Final = r"(\*\.)?[A-Za-z0-9._~:%\[\]-]{1,253}"
"""A host of ``gateway.allowed_hosts``; ``*.`` in front: every name below it."""

ALLOWED_ORIGIN: Final = rf"\*|null|{_WEB}|{_APP}|{_APP_SCHEME}\*"
"""An origin of ``gateway.cors_origins``; ``*``: every one, ``SCHEME://*``: every one of an application's scheme."""
