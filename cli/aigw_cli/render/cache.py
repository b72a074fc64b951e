"""`aigw cache`: counters and tiers, one row per model, and one kept answer."""

from rich.text import Text

from aigw_cli.render.look import Column, Look, Row, fit, hanging, packed, table
from aigw_cli.render.text import clean, duration, file_size, lines_of, memory
from aigw_daemon.control.cache_schema import (
    CacheAnswer,
    CacheClear,
    CacheCleared,
    CacheCounters,
    CacheModel,
    CacheRedis,
    CacheStatistics,
)

COLUMNS = (
    Column("MODEL"),
    Column("HITS", right=True),
    Column("COALESCED", right=True),
    Column("MISSES", right=True),
    Column("HIT-RATE", right=True),
    Column("STORED", right=True),
    Column("SIZE", right=True),
    Column("TOKENS-SAVED", right=True),
    Column("TIME-SAVED", right=True),
)
_GIVE_WAY = ("SIZE", "STORED", "COALESCED", "TIME-SAVED", "TOKENS-SAVED")
_LABEL = 9


def stats_lines(stats: CacheStatistics, look: Look, now: float) -> list[Text]:
    """The whole screen. ``now`` is seconds since the epoch."""
    total, tier, mode = stats.total, stats.memory, clean(stats.mode)
    held = f"{_counted(tier.entries, 'answer')}  {memory(tier.bytes)} of {memory(tier.limit_bytes)}"
    saved = f"{_counted(total.saved_tokens, 'token')}  {duration(total.saved_seconds)} of engines' time"
    lines = [
        _labelled("cache", mode if mode == "off" else f"{mode}  kept for {duration(stats.ttl_s)}"),
        _labelled("since", f"{duration(now - stats.since)} ago  {_requests(total)}"),
        _labelled("saved", saved),
        _labelled("memory", held),
        *_redis(stats.redis, look),
    ]
    if not stats.models:
        return [*lines, Text(), Text("no requests yet", style="dim")]
    return [*lines, Text(), *_models(list(stats.models), look)]


def cleared_line(told: CacheCleared, asked: CacheClear) -> Text:
    """What came of it."""
    of = f" of {clean(asked.model)}" if asked.model is not None else ""
    older = f" older than {duration(asked.older_than)}" if asked.older_than is not None else ""
    if not told.removed:
        return Text(f"no answer{of}{older} was kept")
    return Text(f"removed {_counted(told.removed, 'answer')}{of}{older}")


def answer_lines(answer: CacheAnswer, look: Look) -> list[Text]:
    """One kept answer, and what it says."""
    form = "  streamed" if answer.stream else ""
    lines = [
        _labelled("key", clean(answer.key)),
        _labelled("model", clean(answer.model)),
        _labelled("from", f"{clean(answer.backend)}/{clean(answer.upstream_model)}"),
        _labelled("endpoint", f"{clean(answer.endpoint)}{form}"),
        _labelled("kept", f"{duration(answer.age_s)} ago  {duration(answer.ttl_left_s)} left"),
        _labelled("size", "  ".join(_size(answer))),
    ]
    text = [line for part in lines_of(answer.text) for line in hanging(part, look.width, indent="  ") or [Text()]]
    return [*lines, Text(), *text] if text else lines


def _size(answer: CacheAnswer) -> list[str]:
    tokens = [
        f"{count} {kind} tokens"
        for kind, count in (("prompt", answer.prompt_tokens), ("completion", answer.completion_tokens))
        if count is not None
    ]
    finish = [clean(answer.finish_reason)] if answer.finish_reason else []
    return [file_size(answer.bytes), *tokens, *finish, f"took {duration(answer.duration_s)}"]


def _redis(redis: CacheRedis | None, look: Look) -> list[Text]:
    if redis is None:
        return [_labelled("redis", "none")]
    word, glyph, style = ("connected", "●", "green") if redis.connected else ("not connected", "✗", "yellow")
    line = Text(word if look.plain else f"{glyph} {word}", style=style)
    facts = [clean(redis.where)]
    if redis.entries is not None:
        facts.append(_counted(redis.entries, "answer"))
    if redis.bytes is not None:
        facts.append(memory(redis.bytes) + (f" of {memory(redis.limit_bytes)}" if redis.limit_bytes else ""))
    if redis.unanswered:
        facts.append(f"{_counted(redis.unanswered, 'look')} unanswered")
    if redis.unstored:
        facts.append(f"{_counted(redis.unstored, 'answer')} not stored")
    lines = [_labelled("redis", line.append("  " + "  ".join(facts), style="default"))]
    return lines + (hanging(redis.why, look.width, indent=" " * _LABEL, style=style) if redis.why else [])


def _models(models: list[CacheModel], look: Look) -> list[Text]:
    rows = [_row(model) for model in models]
    columns, moved = fit(COLUMNS, _GIVE_WAY, rows, look.width)
    heading, *body = table(columns, rows)
    lines = [heading]
    for row, line in zip(rows, body, strict=True):
        facts = [f"{row[column.title].plain} {column.title.lower().replace('-', ' ')}" for column in moved]
        lines += [line, *packed(facts, look.width, indent="  ")]
    return lines


def _row(model: CacheModel) -> Row:
    cells = {
        "MODEL": clean(model.model),
        "HITS": str(model.hits),
        "COALESCED": str(model.coalesced),
        "MISSES": str(model.misses),
        "HIT-RATE": _percent(model.hit_rate),
        "STORED": str(model.stored),
        "SIZE": file_size(model.stored_bytes),
        "TOKENS-SAVED": str(model.saved_tokens),
        "TIME-SAVED": duration(model.saved_seconds),
    }
    return {title: Text(value) for title, value in cells.items()}


def _requests(total: CacheCounters) -> str:
    count = total.hits + total.coalesced + total.misses
    share = f"  {_percent(total.hit_rate)} without asking an engine" if count else ""
    return f"{_counted(count, 'request')}{share}"


def _percent(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.0f}%"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _labelled(label: str, value: Text | str) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis").append(f"{label:<{_LABEL}}", style="dim")
    return line.append_text(value if isinstance(value, Text) else Text(value))
