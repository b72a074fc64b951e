"""What a backend answers with, in one word: where it differs, the same question may be answered otherwise.

Most engines don't say which weights they have loaded. The profile and the disk do, so that a model that was replaced
under its name does not come with the answers that were kept of the one before.
"""

import hashlib
import json
from pathlib import Path
from typing import Final

from aigw_daemon.models.resolve import ModelFile
from aigw_daemon.profile.backends import LlamacppBackend, VllmBackend
from aigw_daemon.supervisor.backend import Edges, Plan
from aigw_daemon.supervisor.engines.base import file_stamp

_DECISIVE: Final = frozenset(
    {"engine", "url", "attach", "command", "model", "models_dir", "context", "args", "embeddings", "rerank"}
)
"""The keys of a backend that decide what it answers; the others say where, when and for how many it runs."""


def revision(plan: Plan, edges: Edges) -> str:
    """Of what would be started, or is asked, now. Only looks: what is missing is no error here."""
    said = plan.section.model_dump(mode="json", include=set(_DECISIVE))
    file = _model(plan, edges)
    stamp = file_stamp(file) if file is not None else None
    return hashlib.sha256(json.dumps([said, stamp], sort_keys=True).encode()).hexdigest()


def _model(plan: Plan, edges: Edges) -> Path | None:
    match plan.section:
        case LlamacppBackend() as section:
            found = edges.resolve(plan.profile, section, edges.home)
            return found.path if isinstance(found, ModelFile) else None
        case VllmBackend(model=str() as model) if model.startswith(("/", "~")):
            return Path(model).expanduser()
        case _:
            return None
