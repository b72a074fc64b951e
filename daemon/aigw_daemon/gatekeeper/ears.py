"""What the rest of the daemon hears from the gatekeeper."""

from typing import Protocol

from aigw_daemon.link.messages import Demand, Load, Records, Started


class Ears(Protocol):
    """Who hears what workers report, and that the door's state changed."""

    def on_records(self, message: Records) -> None:
        """Requests have finished."""

    def on_started(self, message: Started) -> None:
        """A request has begun; only while somebody tails."""

    def on_demand(self, message: Demand) -> None:
        """A request wants a backend that isn't running."""

    def on_load(self, total: Load) -> None:
        """What backends have to do, over all workers: told when it changes, and each second while it isn't nothing."""

    def on_change(self) -> None:
        """The state of the gateway has changed."""
