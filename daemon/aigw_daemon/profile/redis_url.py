"""What a Redis URL may say, so that a mistake is told by the daemon and not met by the gateway. Pure."""

from typing import Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

_TLS_OPTIONS: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
_OPTIONS: Final = {"redis": ("db",), "rediss": ("db", *_TLS_OPTIONS), "unix": ("db",)}
_WORDS: Final = {"ssl_cert_reqs": ("none", "optional", "required"), "ssl_check_hostname": ("true", "false")}


def redis_trouble(url: str) -> str | None:
    """What is wrong with a Redis URL whose references are filled in, if anything. It tells nothing that stands there.

    Even the name of an option that nobody knows may be the end of a password.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port  # read for its check
    except ValueError:
        return "must be a Redis URL such as redis://127.0.0.1:6379/0: its host or port can't be read"
    if parts.scheme not in _OPTIONS:
        return "must be a redis://, rediss:// or unix:// URL, or managed"
    return _path_trouble(parts) or _option_trouble(parts)


def _path_trouble(parts: SplitResult) -> str | None:
    if parts.scheme == "unix":
        return None if parts.path.startswith("/") else "must give the socket's whole path, as in unix:///run/redis.sock"
    database = parts.path.strip("/")
    if database and not _is_number(database):
        return "must end in the number of a database, as in redis://127.0.0.1:6379/0, or in nothing"
    return None


def _option_trouble(parts: SplitResult) -> str | None:
    known = _OPTIONS[parts.scheme]
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in known:
            return f"has an option that no {parts.scheme}:// URL knows; after the ? may stand {', '.join(known)}"
        if name == "db" and not _is_number(value):
            return "has a db that is no number of a database"
        if name in _WORDS and value not in _WORDS[name]:
            return f"has an {name} that is none of {', '.join(_WORDS[name])}"
    return None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
