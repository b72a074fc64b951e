"""Reading OpenAI's list of models, as engines and clouds give it; every field may be missing or of another type."""

from typing import Any

from aigw_daemon.link.messages import ModelView


def entries(listing: Any) -> list[dict[str, Any]]:
    """The models of a ``/v1/models`` answer that have a name; some servers answer with the bare list."""
    data = listing.get("data") if isinstance(listing, dict) else listing
    if not isinstance(data, list):
        return []
    return [entry for entry in data if isinstance(entry, dict) and isinstance(entry.get("id"), str) and entry["id"]]


def model_view(entry: dict[str, Any], context: int | None = None, capabilities: tuple[str, ...] = ()) -> ModelView:
    """One entry as the gateway shows it."""
    created = entry.get("created")
    return ModelView(
        id=entry["id"],
        created=created if isinstance(created, int) else 0,
        context=context,
        capabilities=capabilities,
    )


def positive(value: Any) -> int | None:
    """A count as engines write it; None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
