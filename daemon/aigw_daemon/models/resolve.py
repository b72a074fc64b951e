"""Where the model of a llama.cpp backend is on this disk, or how to get it."""

from dataclasses import dataclass
from pathlib import Path

from aigw_daemon.home import Home
from aigw_daemon.models.store import recorded
from aigw_daemon.profile.backends import LlamacppBackend
from aigw_daemon.profile.model import ModelEntry, Profile
from aigw_daemon.profile.sources import model_path


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model's file that is there."""

    path: Path
    size: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A model's file that isn't there."""

    model: str
    source: str | None
    """Where a pull would get it from; None when the profile doesn't say."""
    advice: str
    """One sentence: what is missing, and what to do."""


def resolve(profile: Profile, backend: LlamacppBackend, home: Home) -> ModelFile | Missing:
    """Find the file: a path as it is, else a name of the section ``models``, else a file in the models folder."""
    model = backend.model
    if model is None:
        return Missing("", None, "this backend has no model of its own: somebody else runs it")
    if model.startswith(("/", "~")):
        return _at(Path(model).expanduser(), model)
    entry = profile.models.get(model)
    return _of_entry(model, entry, home) if entry else _in_folder(model, profile, home)


def _at(path: Path, model: str) -> ModelFile | Missing:
    found = _file(path)
    return found or Missing(model, None, f"there is no model file {path}: correct the path, or put the file there")


def _of_entry(name: str, entry: ModelEntry, home: Home) -> ModelFile | Missing:
    path = home.models / model_path(name, entry.file, entry.source)
    found = _file(path)
    if found is None:
        return Missing(name, entry.source, f"the model {name} is not in {home.models} yet: aigw pull {name}")
    verified = recorded(path)
    if verified is not None and entry.sha256 not in {None, verified.sha256}:
        advice = f"the profile wants another version of the model {name} than {path}: aigw pull {name}"
        return Missing(name, entry.source, advice)
    return found


def _in_folder(model: str, profile: Profile, home: Home) -> ModelFile | Missing:
    found = _file(home.models / model) or _only_one(home.models / model)
    if found is not None:
        return found
    names = ", ".join(sorted(profile.models)) or "none"
    advice = (
        f"there is no model {model}: neither in the section models (it has: {names}) nor as a file in {home.models}; "
        f"describe its source in the profile, or aigw pull it under this name"
    )
    return Missing(model, None, advice)


def _only_one(folder: Path) -> ModelFile | None:
    """What was pulled under this name: the one GGUF file of its folder."""
    files = sorted(folder.glob("*.gguf")) if folder.is_dir() else []
    return _file(files[0]) if len(files) == 1 else None


def _file(path: Path) -> ModelFile | None:
    try:
        return ModelFile(path, path.stat().st_size) if path.is_file() else None
    except OSError:
        # A folder on the way that may not be entered is as good as a file that isn't there.
        return None
