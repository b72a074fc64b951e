"""Names that are most like one that nobody knows. Pure.

Comparing letter by letter costs about 10 µs a name, and a gateway before a large cloud has a thousand, asked for by
whoever likes: so only those are compared that share most pairs of letters with it.
"""

import difflib
import heapq
import itertools
from collections.abc import Iterable
from typing import Final

FOUND: Final = 3
"""How many are named."""
_COMPARED: Final = 30
_LONGEST: Final = 200
"""Characters of the unknown name that are looked at."""


class Nearness:
    """Some names, taken apart once. Upper and lower case are the same."""

    def __init__(self, names: Iterable[str]) -> None:
        self._folded: dict[str, str] = {}
        for name in names:
            self._folded.setdefault(name.casefold(), name)
        self._pairs = {folded: _pairs(folded) for folded in self._folded}

    def of(self, name: str) -> tuple[str, ...]:
        """The few that are most like it, the most alike first."""
        name = name[:_LONGEST].casefold()
        wanted = _pairs(name)
        likely = heapq.nlargest(_COMPARED, self._pairs, key=lambda other: len(wanted & self._pairs[other]))
        return tuple(self._folded[found] for found in difflib.get_close_matches(name, likely, FOUND))


def _pairs(name: str) -> frozenset[str]:
    return frozenset(map("".join, itertools.pairwise(name)))
