"""Things that are made once in a folder of their own, reused while they work, and made anew when they are torn.

A stamp that names the recipe is written last: no stamp, another recipe or a failed trial run mean "make it anew".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.setup.steps import SetupError, is_stamped, locked, remove, say, works, write_last
from tests.support.engines import python_tag


@dataclass(frozen=True)
class Installation:
    """What is made in `home`: of what (`recipe`), how (`fill`), and a command that shows that it works (`trial`)."""

    home: Path
    recipe: str
    fill: Callable[[Path], None]
    trial: Sequence[str | Path]

    @property
    def stamp(self) -> Path:
        return self.home / "aigw-recipe"

    @property
    def stamp_text(self) -> str:
        return f"{python_tag()}\n{self.recipe}\n"


def ensure(installation: Installation) -> None:
    """Makes the installation unless it is there and works.

    Raises SetupError when it can't be made; then nothing of it stays.
    """
    with locked(installation.home):
        if is_stamped(installation.stamp, installation.stamp_text):
            if works(installation.trial):
                return
            say(f"{installation.home.name}: it is there but doesn't run: making it anew")
        remove(installation.home)
        try:
            installation.fill(installation.home)
            _try(installation)
        except BaseException:
            remove(installation.home)
            raise
        write_last(installation.stamp, installation.stamp_text)


def _try(installation: Installation) -> None:
    if not works(installation.trial):
        command = " ".join(str(part) for part in installation.trial)
        raise SetupError(f"cannot use {installation.home}: all was installed, but this fails:\n  {command}")
