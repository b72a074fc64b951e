"""Why a connection could not be made, in words: found in the chain of causes behind a library's own exception."""

import socket
import ssl
from collections.abc import Iterator

from aigw_daemon.network.proxies import Proxy

_CREDENTIALS_MISSING = 407


def connect_failure(error: BaseException, host: str, proxy: Proxy | None) -> str:
    """What kept a connection to ``host`` from coming about; the subject is ``it``, the host's name or the proxy."""
    who, dialed = ("it", host) if proxy is None else (str(proxy), proxy.host)
    cause = root_cause(error)
    match cause:
        case socket.gaierror():
            return (
                unresolved(dialed, cause) if proxy is None else f"{who} can't be reached: {unresolved(dialed, cause)}"
            )
        case ssl.SSLCertVerificationError():
            reason = cause.verify_message.rstrip(".")
            return f"its certificate can't be verified: {reason}; SSL_CERT_FILE names a file of others to trust"
        case ssl.SSLError():
            return f"TLS failed: {cause.reason or cause}"
        case ConnectionRefusedError():
            return f"{who} refuses connections"
        case OSError() if cause.strerror:
            return f"{who} can't be reached: {cause.strerror}"
        case _:
            return f"{who} can't be reached"


def unresolved(name: str, error: BaseException) -> str:
    """A name for which the resolver has no address, or no answer."""
    silent = isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN
    return f"the name {name} can't be resolved" + (": the resolver doesn't answer" if silent else "")


def refused_by_proxy(status: int, proxy: Proxy | None) -> str | None:
    """What an HTTP status says of the proxy rather than of the host behind it, if so."""
    if proxy is None or status != _CREDENTIALS_MISSING:
        return None
    return f"{proxy} asks for a user and a password ({status}): put them into {proxy.variable}"


def root_cause(error: BaseException) -> BaseException:
    """The first cause that the system or TLS reported; the error itself where there is none."""
    known = (
        each for each in _chain(error) if isinstance(each, OSError) and (each.errno or isinstance(each, ssl.SSLError))
    )
    return next(known, error)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        each = waiting.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        if isinstance(each, BaseExceptionGroup):
            waiting += each.exceptions
        waiting += [cause for cause in (each.__cause__, each.__context__) if cause is not None]
