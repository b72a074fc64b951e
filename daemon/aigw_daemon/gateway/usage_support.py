"""Whether a backend lets the gateway ask for the usage of a stream."""

from typing import Final

from aigw_daemon.gateway.wire import ApiError

_REFUSALS: Final = frozenset({400, 422})
_FIELD_NAMES: Final = ("stream_options", "include_usage")
_MOST_MODELS: Final = 1_000


class UsageSupport:
    """What a backend did with a ``stream_options`` that the gateway added."""

    __slots__ = ("_accepted", "refused")

    def __init__(self) -> None:
        self.refused = False
        """Whether its streams work only without it: then it isn't added any more."""
        self._accepted: set[str] = set()
        """Models that streamed with it."""

    def reset(self) -> None:
        """Forget everything: the backend may be another one now."""
        self.refused = False
        self._accepted.clear()

    def accept(self, model: str) -> None:
        """Note that a stream of this model began with the field."""
        if model not in self._accepted:
            if len(self._accepted) >= _MOST_MODELS:
                self._accepted.clear()
            self._accepted.add(model)

    def may_be_cause(self, model: str, error: ApiError) -> bool:
        """Whether the field may be why a request was refused: the error names it, or it has never been accepted."""
        if error.status not in _REFUSALS:
            return False
        said = f"{error.message} {error.param}"
        return any(name in said for name in _FIELD_NAMES) or model not in self._accepted
