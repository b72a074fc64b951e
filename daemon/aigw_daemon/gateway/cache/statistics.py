"""What the cache did, per model as clients name it."""

import msgspec

from aigw_daemon.link.caching import CacheCounts

MOST_MODELS = 1_000
"""Clients choose names that a pattern matches, so there must be an end; the rest is counted together."""
OTHERS = "(others)"


class RedisCounts(msgspec.Struct):
    """What went wrong, since the worker began."""

    unanswered: int = 0
    """Looks that got no reply in time."""
    unstored: int = 0
    """Answers that were not stored: too many waited for a connection, two attempts failed, or Redis refused."""


class Statistics:
    """All models' counts."""

    def __init__(self) -> None:
        self._models: dict[str, CacheCounts] = {}

    def of(self, model: str) -> CacheCounts:
        """The counts of one model, to be added to."""
        found = self._models.get(model)
        if found is None:
            name = model if len(self._models) < MOST_MODELS else OTHERS
            found = self._models.setdefault(name, CacheCounts())
        return found

    def all(self) -> dict[str, CacheCounts]:
        """A copy of everything."""
        return {model: msgspec.structs.replace(counts) for model, counts in self._models.items()}
