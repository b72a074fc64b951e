"""Where profiles are: the user's own first, then those that aigw brings along."""

from importlib.resources import files
from pathlib import Path

from aigw_daemon.home import Home
from aigw_daemon.profile.errors import ProfileError, ProfileProblem, did_you_mean, shown
from aigw_daemon.profile.load import load

_ENDINGS = (".yaml", ".yml")


def shipped() -> Path:
    """The folder of the profiles that come with aigw: inside the installed package, or beside it in a checkout."""
    packaged = Path(str(files("aigw_daemon.profile"))) / "shipped"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[3] / "profiles"


def find(name_or_path: str, home: Home) -> Path:
    """The file of a profile: a path (it has a slash, or ends in .yaml or .yml), or the name of one.

    Raises ProfileError, with the names that there are, when there is none; whether it can be used is `load`'s to say.
    """
    if "/" in name_or_path or name_or_path.endswith(_ENDINGS):
        path = Path(name_or_path).expanduser().absolute()
        if not path.exists():
            raise _not_found(name_or_path, "there is no such file", home)
        return path
    known = _known(home)
    if name_or_path not in known:
        raise _not_found(name_or_path, "there is no profile of this name", home)
    return known[name_or_path]


def listing(home: Home) -> list[tuple[str, Path, str | tuple[ProfileProblem, ...]]]:
    """Every profile by name: its file, and its description, or what is wrong with it."""
    return [(name, path, _description(path)) for name, path in sorted(_known(home).items())]


def _known(home: Home) -> dict[str, Path]:
    # The user's own come last, so that they win over shipped ones of the same name.
    folders = (shipped(), home.profiles)
    return {path.stem: path for folder in folders for ending in _ENDINGS for path in sorted(folder.glob(f"*{ending}"))}


def _description(path: Path) -> str | tuple[ProfileProblem, ...]:
    try:
        return load(path).description or ""
    except ProfileError as error:
        return error.problems


def _not_found(name: str, rule: str, home: Home) -> ProfileError:
    names = tuple(sorted(_known(home)))
    hint = did_you_mean(name, names) or f"put your own into {home.profiles}"
    return ProfileError([ProfileProblem(shown(name), 0, 0, "", rule, choices=names, hint=hint)])
