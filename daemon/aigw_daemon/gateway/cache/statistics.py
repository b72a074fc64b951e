"""What the cache did, per model as clients name it."""

import msgspec

MOST_MODELS = 1_000
"""Clients choose names that a pattern matches, so there must be an end; the rest is counted together."""
OTHERS = "(others)"


class ModelStatistics(msgspec.Struct):
    """Counts since the worker began."""

    hits: int = 0
    misses: int = 0
    coalesced: int = 0
    """Requests that shared another one's upstream call."""
    stored: int = 0
    stored_bytes: int = 0
    saved_tokens: int = 0
    """Prompt and completion tokens of the answers that were not asked for again."""
    saved_seconds: float = 0.0


class RedisCounts(msgspec.Struct):
    """What went wrong, since the worker began."""

    unanswered: int = 0
    """Looks that got no reply in time."""
    unstored: int = 0
    """Answers that were not stored: no connection, too much waiting, or Redis refused."""


class Statistics:
    """All models' counts."""

    def __init__(self) -> None:
        self._models: dict[str, ModelStatistics] = {}

    def of(self, model: str) -> ModelStatistics:
        """The counts of one model, to be added to."""
        found = self._models.get(model)
        if found is None:
            name = model if len(self._models) < MOST_MODELS else OTHERS
            found = self._models.setdefault(name, ModelStatistics())
        return found

    def all(self) -> dict[str, ModelStatistics]:
        """A copy of everything."""
        return {model: msgspec.structs.replace(counts) for model, counts in self._models.items()}
