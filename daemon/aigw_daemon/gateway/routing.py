"""From a request to the ordered candidates that may answer it, each with the reason why it was kept or skipped.

Pure: a `Snapshot` is compiled once into a `RoutingTable`; `resolve` serves requests and ``aigw test-routing`` alike.
What a name stands for is decided in `matching`, who can answer in `ability`. The fallback comes after a route's own
targets, never for a name that nothing matches.
"""

from collections.abc import Iterable

import msgspec

from aigw_daemon.gateway.ability import ONE_MODEL, candidates, unspoken
from aigw_daemon.gateway.decision import CALM, Ask, Candidate, Conditions, Decision, Readiness
from aigw_daemon.gateway.matching import DEFAULT_TAG, Match, Names, served_name
from aigw_daemon.gateway.nearness import Nearness
from aigw_daemon.link.messages import ModelView, Snapshot

__all__ = [
    "CALM",
    "DEFAULT_TAG",
    "Ask",
    "Candidate",
    "Conditions",
    "Decision",
    "Readiness",
    "RoutingTable",
    "resolve",
]

INSTEAD_NAMES = 10
"""How many models are named to a client that asks for an endpoint which its model doesn't speak."""


class RoutingTable:
    """A compiled snapshot: dictionaries, so that the common case is one look-up."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._names = Names(snapshot)
        self.backends = self._names.backends
        self.made: dict[tuple[str, str], Decision] = {}
        """Decisions for routes and aliases asked by their very names, by endpoint and name."""
        self._speakers: dict[str, tuple[str, ...]] = {}
        self._nearness: Nearness | None = None

    def names(self) -> list[str]:
        """Every name that can be asked for, patterns aside: routes first, then models that backends list."""
        return self._names.all()

    def view(self, candidate: Candidate) -> ModelView | None:
        """The candidate's model as its backend lists it; None for one that it doesn't list."""
        return self._names.served.get(candidate.backend, {}).get(candidate.model)

    def decide(self, ask: Ask, conditions: Conditions) -> Decision:
        """See `resolve`."""
        match = self._names.match(ask.model)
        if match is None:
            return Decision(ask.model, None, None, (), nearest=self._nearest(ask.model), endpoint=ask.endpoint)
        decision = self._decided(match, ask, conditions)
        if ask.model in self._names.routes and conditions is CALM and not ask.needs and not ask.tokens:
            self.made[ask.endpoint, ask.model] = decision
        return decision

    def _nearest(self, name: str) -> tuple[str, ...]:
        if self._nearness is None:
            self._nearness = Nearness(self.names())
        return self._nearness.of(name)

    def _decided(self, match: Match, ask: Ask, conditions: Conditions) -> Decision:
        found, route = candidates(self._names, match, ask, conditions), match.route
        instead = self._instead(ask.endpoint) if self._unspoken(found, ask) else None
        if route is None:
            return Decision(ask.model, match.word, None, found, endpoint=ask.endpoint, instead=instead)
        return Decision(
            ask.model,
            match.word,
            route.name,
            found,
            route.cold,
            endpoint=ask.endpoint,
            overflow=route.overflow,
            balance=route.balance,
            params=route.params,
            on_context_overflow=self._chain(match, ask, conditions),
            instead=instead,
            first_token_timeout=route.first_token_timeout,
            request_timeout=route.request_timeout,
            cache=route.cache,
            cache_ttl=route.cache_ttl,
        )

    def _chain(self, match: Match, ask: Ask, conditions: Conditions) -> tuple[Candidate, ...]:
        """Who takes a prompt that is too long: another model, so nobody where two models don't mix."""
        if match.route is None or not match.route.on_context_overflow or ask.endpoint in ONE_MODEL:
            return ()
        longer = msgspec.structs.replace(match, fallback=match.route.on_context_overflow)
        behind = (each for each in candidates(self._names, longer, ask, conditions) if each.fallback)
        return tuple(msgspec.structs.replace(each, fallback=False) for each in behind)

    def _unspoken(self, found: Iterable[Candidate], ask: Ask) -> bool:
        """Whether there are backends for it, and none does the endpoint."""
        known = [(backend, each.model) for each in found if (backend := self.backends.get(each.backend)) is not None]
        served = self._names.served
        return bool(known) and all(unspoken(b, served[b.name].get(model), ask.endpoint) for b, model in known)

    def _instead(self, endpoint: str) -> tuple[str, ...]:
        if endpoint not in self._speakers:
            speaking = (name for name in self.names() if self._leads_to(name, endpoint))
            self._speakers[endpoint] = tuple(name for name, _ in zip(speaking, range(INSTEAD_NAMES), strict=False))
        return self._speakers[endpoint]

    def _leads_to(self, name: str, endpoint: str) -> bool:
        """Whether some target of the name does the endpoint, in whatever state its backend is."""
        match = self._names.match(name)
        for target in match.targets if match is not None else ():
            backend = self.backends.get(target.backend)
            if backend is None:
                continue
            served = self._names.served[backend.name]
            model = served_name(backend, served, self._names.model_of(target, name))
            if model is not None and unspoken(backend, served.get(model), endpoint) is None:
                return True
        return False


def resolve(table: RoutingTable, ask: Ask | str, conditions: Conditions = CALM) -> Decision:
    """Which candidates answer ``ask`` (a name alone asks for a chat), in order, with reasons. Never raises.

    Nothing matches an unknown name: it has no candidates, and names that are near. A name whose candidates are all
    skipped keeps them, with the reasons.
    """
    if isinstance(ask, str):
        ask = Ask(ask)
    if conditions is CALM and not ask.needs and not ask.tokens:
        return table.made.get((ask.endpoint, ask.model)) or table.decide(ask, conditions)
    return table.decide(ask, conditions)
