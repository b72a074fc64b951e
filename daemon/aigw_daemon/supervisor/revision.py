"""What a backend answers with, in one word: where it differs, the same question may be answered otherwise.

Most engines don't say which weights they have loaded. The profile and the disk do, so that a model that was replaced
under its name does not come with the answers that were kept of the one before. Files that ``args`` name don't count.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from aigw_daemon.models.resolve import ModelFile
from aigw_daemon.profile.backends import BackendSection, LlamacppBackend, ProcessSection, VllmBackend
from aigw_daemon.profile.scalars import MissingVariableError, expand
from aigw_daemon.supervisor.backend import Edges, Plan
from aigw_daemon.supervisor.engines.base import file_stamp

_DECISIVE: Final = frozenset({"engine", "command", "model", "models_dir", "context", "args", "embeddings", "rerank"})
"""The keys of a backend that decide what it answers, beside its address and its environment; the others say where, when
and for how many it runs."""


def revision(plan: Plan, edges: Edges) -> str:
    """Of what would be started, or is asked, now. Blocks as long as the disk does that the model is on.

    Only looks: what is missing, or can't be read, is no error here.
    """
    section, environ = plan.section, edges.environ
    said = section.model_dump(mode="json", include=set(_DECISIVE))
    where = _expanded({"url": section.base_url or ""}, environ)
    env = _expanded(section.env, environ) if isinstance(section, ProcessSection) else {}
    stamp = None
    with suppress(OSError, RuntimeError):  # the second is pathlib's word for ~USER of a user that isn't there
        stamp = file_stamp(file) if (file := _model(plan, edges)) is not None else None
    return hashlib.sha256(json.dumps([said, where, env, stamp], sort_keys=True).encode()).hexdigest()


def has_model_file(section: BackendSection) -> bool:
    """Whether it may come to answer otherwise without a change of the profile."""
    return section.managed and isinstance(section, LlamacppBackend | VllmBackend)


def _expanded(said: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, str | None]:
    """With the variables' values; None where one is missing: then it doesn't start anyway."""
    found: dict[str, str | None] = dict.fromkeys(said)
    for name, value in said.items():
        with suppress(MissingVariableError):
            found[name] = expand(value, environ) if isinstance(value, str) else value.expand(environ)
    return found


def _model(plan: Plan, edges: Edges) -> Path | None:
    match plan.section:
        case LlamacppBackend() as section:
            found = edges.resolve(plan.profile, section, edges.home)
            return found.path if isinstance(found, ModelFile) else None
        case VllmBackend(model=str() as model) if model.startswith(("/", "~")):
            return Path(model).expanduser()
        case _:
            return None
