"""Where a broken profile says nothing that can be relied on."""

from collections.abc import Iterable

Path = tuple[str | int, ...]


class Doubts:
    """Paths at which a broken profile says nothing that can be relied on."""

    def __init__(self, paths: Iterable[Path] = ()) -> None:
        self._at: set[Path] = set()
        self._above: set[Path] = set()
        self.add(paths)

    def add(self, paths: Iterable[Path]) -> None:
        """Note more of them."""
        for path in paths:
            self._at.add(path)
            self._above.update(path[:length] for length in range(1, len(path)))

    def touch(self, path: Path) -> bool:
        """Whether the value at the path, or a part of it, or what it is a part of, is in doubt."""
        return path in self._above or any(path[:length] in self._at for length in range(len(path) + 1))
