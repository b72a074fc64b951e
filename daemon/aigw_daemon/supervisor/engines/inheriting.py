"""What of the daemon's environment an engine gets unasked: all of it but the keys of others (rule S12). Pure.

An engine is a large program with plugins and models of strangers; the key of a cloud is none of its business.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from aigw_daemon.profile.backends import BackendSection, LlamacppBackend, VllmBackend
from aigw_daemon.profile.model import Profile
from aigw_daemon.profile.scalars import Secret

_LOOKS_SECRET: Final = re.compile(r".*(_API_KEY|_TOKEN)|.*_SECRET.*|API_KEY|TOKEN|SECRET", re.IGNORECASE)
_HUB_TOKENS: Final = frozenset({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"})
"""vLLM and llama.cpp fetch gated models by themselves, with the operator's token."""


def inherited(environ: Mapping[str, str], profile: Profile, section: BackendSection) -> dict[str, str]:
    """``environ`` without what the profile uses as somebody's key, and without what looks like one.

    A backend that needs one of them names it in its own ``env``.
    """
    ours = _HUB_TOKENS if isinstance(section, VllmBackend | LlamacppBackend) else frozenset()
    keys = {name for other in profile.backends.values() for name in _keys(other)}
    keys |= profile.cache.redis.variables if profile.cache.redis is not None else set()
    return {
        name: value
        for name, value in environ.items()
        if name in ours or not (name in keys or _LOOKS_SECRET.fullmatch(name))
    }


def _keys(section: BackendSection) -> Iterator[str]:
    key = getattr(section, "api_key", None)
    if isinstance(key, Secret):
        yield from key.variables
