"""Names of Ollama's models: ``[[HOST/]NAMESPACE/]MODEL[:TAG]`` (rule S9)."""

import re
from typing import Final

from aigw_daemon.models.request import PullError

DEFAULT_TAG: Final = "latest"
"""What a name without a tag means."""
_PART: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_NAMESPACE: Final = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}"
_HOST: Final = r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,255}"
_NAME: Final = re.compile(rf"(?:(?:{_HOST}/)?{_NAMESPACE}/)?{_PART}(?::{_PART})?")
_DEFAULT_PLACES: Final = ("registry.ollama.ai/", "library/")
"""What Ollama leaves out when it lists a model of its own registry."""


def check_name(name: str) -> str:
    """The name as it was, when it is one. Raises PullError."""
    if not _NAME.fullmatch(name):
        text = (
            f"cannot pull {name!r}: a model of Ollama is named [[HOST/]NAMESPACE/]MODEL[:TAG], each part of letters, "
            "digits, '.', '_' and '-', such as llama3.1:8b or registry.example:5000/team/model:1"
        )
        raise PullError("invalid", text)
    return name


def full_name(name: str) -> str:
    """The name as Ollama lists it: with its tag, without the places that go without saying."""
    for place in _DEFAULT_PLACES:
        name = name.removeprefix(place)
    return name if ":" in name.rpartition("/")[2] else f"{name}:{DEFAULT_TAG}"
