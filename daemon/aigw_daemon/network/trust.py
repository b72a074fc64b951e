"""Which certificate authorities are trusted: one store for probes, requests and pulls.

`SSL_CERT_FILE` and `SSL_CERT_DIR` where they are set; else the system's store; where the system has none, certifi's.
"""

import ssl
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final

import certifi
import msgspec

from aigw_daemon.network.problems import BadEnvironment

FILE_VARIABLE: Final = "SSL_CERT_FILE"
FOLDER_VARIABLE: Final = "SSL_CERT_DIR"
_SYSTEM_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # Alpine
)
"""Where distributions keep theirs: a Python that wasn't built for this one looks elsewhere."""


class Trust(msgspec.Struct, frozen=True):
    """Paths of a file and a folder of certificates (colons between several folders)."""

    file: str | None = None
    folder: str | None = None


def trust_store(env: Mapping[str, str]) -> Trust:
    """The store that this environment selects. Raises BadEnvironment for a variable that names nothing readable."""
    file, folder = env.get(FILE_VARIABLE) or None, env.get(FOLDER_VARIABLE) or None
    if file is None and folder is None:
        return _system_store()
    if file is not None and not _is_readable(file):
        raise _bad(FILE_VARIABLE, f"names {file}, which can't be read")
    if folder is not None and not any(Path(each).is_dir() for each in folder.split(":")):
        raise _bad(FOLDER_VARIABLE, f"names {folder}, which is no folder")
    return Trust(file, folder)


@lru_cache(maxsize=8)
def tls_context(trust: Trust) -> ssl.SSLContext:
    """A client's context that trusts this store. Raises BadEnvironment when it has no certificate that can be read."""
    try:
        return ssl.create_default_context(cafile=trust.file, capath=trust.folder)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        where = trust.file or trust.folder
        raise _bad(FILE_VARIABLE, f"selects {where}, which has no certificates that can be read") from error


def _system_store() -> Trust:
    paths = ssl.get_default_verify_paths()
    for file in (paths.openssl_cafile, *_SYSTEM_BUNDLES):
        if _is_readable(file):
            return Trust(file)
    if any(Path(paths.openssl_capath).glob("*.0")):
        return Trust(folder=paths.openssl_capath)
    return Trust(certifi.where())


def _is_readable(file: str) -> bool:
    try:
        with Path(file).open("rb") as opened:
            return bool(opened.read(1))
    except (OSError, ValueError):
        return False


def _bad(variable: str, trouble: str) -> BadEnvironment:
    remedy = "set it to a PEM file of certificates, or unset it to use the system's"
    if variable == FOLDER_VARIABLE:
        remedy = "set it to a folder made by c_rehash, or unset it to use the system's"
    return BadEnvironment(variable, trouble, remedy)
