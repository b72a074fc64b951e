"""Paths that an operator types are relative to the operator's folder; the daemon runs in another. Told whole."""

from pathlib import Path

_FILE = "file:"


def absolute_profile(profile: str | None) -> str | None:
    """A profile's file (it has a slash, or ends in .yaml or .yml) as an absolute path; a name as it is."""
    if profile is None or not ("/" in profile or profile.endswith((".yaml", ".yml"))):
        return profile
    return str(Path(profile).expanduser().absolute())


def absolute_source(model: str) -> str:
    """A model's file as ``file:`` and its absolute path; names and other sources as they are."""
    if model.startswith(_FILE) and not model.startswith(_FILE + "//"):
        return _FILE + str(Path(model.removeprefix(_FILE)).expanduser().absolute())
    if model.startswith(("/", "./", "../", "~/")):
        return _FILE + str(Path(model).expanduser().absolute())
    return model
