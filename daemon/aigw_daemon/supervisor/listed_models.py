"""The models that a backend listed last: they stay known while it can't be asked, also to the next daemon.

A request for one of them is then turned away for now, not as unknown. They count for one revision of the backend: with
another model's file or another URL it may list others.
"""

from collections.abc import Callable

import msgspec

from aigw_daemon.link.messages import ModelView
from aigw_daemon.state_file import Listed, StateFile


class ListedModels:
    """Of one backend. ``now`` tells seconds since the epoch."""

    def __init__(self, name: str, state: StateFile, now: Callable[[], float]) -> None:
        self._name = name
        self._state = state
        self._now = now
        self._last: dict[str, ModelView] = {}
        """With all that the backend told of them; the state file has the names alone."""
        self._recalled: tuple[Listed, tuple[ModelView, ...]] | None = None
        """What is shown of a record: made once, for it is asked for at every change of anything."""

    def note(self, models: tuple[ModelView, ...], revision: str) -> None:
        """Keep what the backend lists now."""
        self._last = {model.id: model for model in models}
        names, kept = tuple(self._last), self._kept(revision)
        if names != (kept.models if kept is not None else ()):
            self._keep(names, revision)

    def leave(self, revision: str) -> None:
        """The backend stops serving: from now on its list grows old."""
        if (kept := self._kept(revision)) is not None:
            self._keep(kept.models, revision)

    def recall(self, revision: str) -> tuple[ModelView, ...]:
        """What it listed last, marked as not listed now."""
        kept = self._kept(revision)
        if kept is None:
            return ()
        if self._recalled is None or self._recalled[0] is not kept:
            views = (self._last.get(name) or ModelView(id=name, created=0) for name in kept.models)
            shown = tuple(msgspec.structs.replace(view, listed=False, listed_at=kept.at) for view in views)
            self._recalled = (kept, shown)
        return self._recalled[1]

    def _kept(self, revision: str) -> Listed | None:
        kept = self._state.backend(self._name).listed
        return kept if kept is not None and kept.revision == revision else None

    def _keep(self, names: tuple[str, ...], revision: str) -> None:
        self._state.update_backend(self._name, listed=Listed(names, self._now(), revision))
