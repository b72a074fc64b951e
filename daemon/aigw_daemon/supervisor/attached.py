"""A backend that somebody else runs: a URL that is probed and routed to, and never started or stopped."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final
from urllib.parse import urlsplit

from aigw_daemon.link.messages import ModelView, Secret
from aigw_daemon.network.egress import DIRECT, egress_for
from aigw_daemon.network.hosts import ascii_host, is_this_machine
from aigw_daemon.profile.scalars import MissingVariableError, check_url, expand, header_key
from aigw_daemon.profile.scalars import Secret as ProfileSecret
from aigw_daemon.supervisor.backend import Address, Backend, BackendReport, Edges, Plan
from aigw_daemon.supervisor.engines.base import Library, LoadedModel
from aigw_daemon.supervisor.engines.listing import model_view
from aigw_daemon.supervisor.engines.registry import ENGINES
from aigw_daemon.supervisor.failures import Failure, FailureKind
from aigw_daemon.supervisor.lifecycle import Event, Life
from aigw_daemon.supervisor.probe import Listing, Reading
from aigw_daemon.supervisor.revision import revision
from aigw_daemon.words import SERVING, EngineKind, State

LOCAL_SECONDS: Final = 10.0
"""Between two probes of an address of this machine."""
REMOTE_SECONDS: Final = 30.0
"""Between two probes of any other: its models seldom change, and it is not ours to keep busy."""
FAILURES: Final = 3
"""Probes in a row that must fail before a URL that answered counts as unreachable."""
LOOK_SECONDS: Final = 2.0
"""After a request, within which time an engine with many models is asked what it has loaded."""
RETRY_SECONDS: Final = 2.0
"""Between two probes while they fail."""
V1: Final = "/v1"
"""Below it, OpenAI's routes."""
_PORTS: Final = {"http": 80, "https": 443}


class AttachedBackend(Backend):
    """See the module."""

    life = Life.ATTACHED

    def __init__(self, plan: Plan, edges: Edges) -> None:
        super().__init__(plan, edges)
        self._address: Address | None = None
        self._egress = DIRECT
        self._key: Secret | None = None
        self._reading = Reading()
        self._answers_since: float | None = None
        self._probed = False
        self._revision = revision(plan, edges)
        self._used = edges.traffic(self.name)
        """Its requests as they were when it was last looked at."""

    def report(self) -> BackendReport:
        """See Backend."""
        return replace(
            self._outline(self._reading, self._answers_since if self.state in SERVING else None),
            address=self._address,
            egress=self._egress,
            probed=self._probed or self.state is not State.UNREACHABLE,
            has_list=self._reading.has_list,
            api_key=self._key,
            max_concurrency=self.plan.section.max_concurrency,
            revision=self._revision,
        )

    def _on_start(self, *, by_operator: bool) -> None:
        self.wanted = True
        changes = {"stopped_by_operator": False} if by_operator else {}
        self._edges.state.update_backend(self.name, wanted=True, **changes)
        if not self._transition(Event.START, "not probed yet") and by_operator:
            # Asked anew at once: whoever starts it wants to know how it is now.
            self._ask_anew()

    def _on_stop(self, *, hold: bool, now: bool) -> None:  # noqa: ARG002  # it runs on: there is nothing to hurry
        self.wanted = False
        changes = {"stopped_by_operator": True} if hold else {}
        self._edges.state.update_backend(self.name, wanted=False, **changes)
        self._transition(Event.STOP)

    def _on_restart(self, *, now: bool) -> None:  # noqa: ARG002  # likewise
        self._on_start(by_operator=True)

    def _is_settled(self) -> bool:
        return super()._is_settled() and (self._probed or self.state is not State.UNREACHABLE)

    def _on_bug(self) -> None:
        self._end_effect()

    def _entered(self, before: State) -> None:
        if self.state in {State.STOPPED, State.FAILED}:
            self._end_effect()
        elif before in {State.STOPPED, State.FAILED}:
            self.failure, self._answers_since = None, None
            self._ask_anew()

    def _ask_anew(self) -> None:
        self._probed = False
        self._begin(self._keep_asking)
        self._edges.on_change()

    async def _keep_asking(self) -> None:
        try:
            base, address, key = self._whereabouts()
            egress = egress_for(base, self._edges.environ)
        except (MissingVariableError, ValueError) as error:
            failure = Failure(FailureKind.BAD_SETTING, str(error))
            self._post(lambda: self._unusable(failure))
            return
        self._address, self._egress, self._key = address, egress, key
        calm = LOCAL_SECONDS if is_this_machine(address.host) else REMOTE_SECONDS
        failures = 0
        while True:
            answer = await self._listed(base, key)
            failures = failures + 1 if answer.why else 0
            self._judge(answer, failures)
            await self._rest(base, key, RETRY_SECONDS if 0 < failures < FAILURES else calm)

    async def _rest(self, base: str, key: Secret | None, seconds: float) -> None:
        """Wait for the next probe; meanwhile a request may have a model loaded, or keep one that is."""
        clock, kind = self._edges.clock, ENGINES.get(self.plan.kind)
        if not isinstance(kind, Library):
            await clock.sleep(seconds)
            return
        until = clock.monotonic() + seconds
        while (left := until - clock.monotonic()) > 0:
            await clock.sleep(min(LOOK_SECONDS, left))
            before, self._used = self._used, self._edges.traffic(self.name)
            if (self._used.in_flight, self._used.relayed) != (before.in_flight, before.relayed):
                loaded = await self._edges.prober.loaded(kind, base.removesuffix(V1), key)
                if loaded is not None:
                    self._post(partial(self._has_loaded, loaded))

    def _has_loaded(self, loaded: tuple[LoadedModel, ...]) -> None:
        if self.state in SERVING and loaded != self._reading.loaded:
            self._reading = replace(self._reading, loaded=loaded)
            self._edges.on_change()

    def _whereabouts(self) -> tuple[str, Address, Secret | None]:
        """The base URL, the address and the key. Raises MissingVariableError, and ValueError for a URL that is none."""
        section, env = self.plan.section, self._edges.environ
        base = check_url(expand(section.base_url or "", env))
        said = getattr(section, "api_key", None)
        where = f"backends.{self.name}.api_key"
        key = Secret(header_key(said, where, env)) if isinstance(said, ProfileSecret) else None
        parts = urlsplit(base)
        # Only openai's url is given up to and with /v1; the others name a server, whose routes are below /v1.
        path = parts.path if self.plan.kind is EngineKind.OPENAI else parts.path + V1
        address = Address(
            ascii_host(parts.hostname or ""),
            parts.port or _PORTS[parts.scheme],
            tls=parts.scheme == "https",
            base_path=path,
        )
        return f"{address.url}{path}", address, key

    async def _listed(self, base: str, key: Secret | None) -> Reading:
        """What it offers. An engine with many models says more of them on a path of its own, where that is open."""
        listing = await self._edges.prober.listing(base, key)
        if listing.why is not None:
            return Reading(why=listing.why)
        if listing.missing is not None:
            return self._without_list(listing.missing)
        kind = ENGINES.get(self.plan.kind)
        if isinstance(kind, Library):
            own = await self._edges.prober.ready(kind, self.plan.section, base.removesuffix(V1), key)
            if own.up:
                return own
        return Reading(True, self._offered(listing))

    def _without_list(self, status: int) -> Reading:
        """Some servers have no list: then the profile's names count, and nothing is known of them."""
        named = self.plan.section.served_models
        if not named:
            path = f"{V1}/models" if self.plan.kind is not EngineKind.OPENAI else "/models"
            return Reading(why=f"{path} answers {status}: check the URL; for a server without such a list, name models")
        return Reading(True, tuple(ModelView(id=name, created=0, listed=False) for name in named), has_list=False)

    async def _look_again(self) -> Callable[[], None]:
        base, _, key = self._whereabouts()
        answer = await self._listed(base, key)
        return lambda: self._answers(answer) if answer.up and self.state in SERVING else None

    def _judge(self, answer: Reading, failures: int) -> None:
        if answer.why is None:
            self._post(lambda: self._answers(answer))
        else:
            event = Event.LOST if failures >= FAILURES else Event.FAILING
            why = answer.why
            self._post(lambda: self._fails(event, why))

    def _offered(self, listing: Listing) -> tuple[ModelView, ...]:
        """Its own list; the profile's instead where it has one."""
        listed = {entry["id"]: model_view(entry) for entry in listing.models}
        named = self.plan.section.served_models
        if named is None:
            return tuple(listed.values())
        # One that lists nothing can't be said to lack anything.
        return tuple(listed.get(name) or ModelView(id=name, created=0, listed=not listed) for name in named)

    def _answers(self, answer: Reading) -> None:
        if self._answers_since is None:
            self._answers_since = self._edges.clock.monotonic()
        changed, self._reading = answer != self._reading or not self._probed, answer
        self._probed = True
        self._listed_models.note(answer.models, self._revision)
        if not self._transition(Event.READY) and changed:
            self._edges.on_change()

    def _fails(self, event: Event, why: str) -> None:
        first, self._probed = not self._probed, True
        if self.state is not State.READY or event is not Event.LOST:
            moved = self._transition(event, why)
        else:
            moved = self._transition(Event.FAILING, why)
        if not moved and (first or why != self.why):
            self.why = why
            self._edges.on_change()
        if self.state is State.UNREACHABLE:
            self._answers_since = None

    def _unusable(self, failure: Failure) -> None:
        self.failure = failure
        self._transition(Event.GIVE_UP, failure.sentence)
