"""Where each microsecond of a request goes: CPU time of the gateway, of a hit and of the bare relay, by step.

`scripts/profiling/request-cost` starts it. There are no sockets, so the kernel's share is missing. The steps come from
a second run under cProfile, whose own cost is taken off again: read them as shares, not as exact times.
"""

import argparse
import sys
from cProfile import Profile
from pathlib import Path
from statistics import median
from types import CodeType

import uvloop
from rich.console import Console
from rich.table import Table

from scripts.profiling.in_process import AIGW, BARE_RELAY, CONNECTIONS, HIT, Contestant, measure
from scripts.profiling.steps import MEANINGS, Profiled, Spent, folded, step_of

CONTESTANTS: dict[str, Contestant] = {"bare": BARE_RELAY, "aigw": AIGW, "hit": HIT}
_WIDTH = 120
_CALIBRATION_CALLS = 100_000
_ROOTS = ("aigw_daemon", "scripts")
_NOTE = (
    "Two vCPUs are usually two threads of one core: Python runs about half as fast while the sibling is busy, as it is"
    " under load. So these figures, taken beside an idle sibling, count about double there."
)

Steps = dict[str, float]


def main() -> None:
    """Measures, and prints two tables."""
    options = _options()
    rounds: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for _ in range(options.rounds):
        for name, contestant in CONTESTANTS.items():
            rounds[name].append(uvloop.run(measure(contestant, options.requests)).cpu)
    profiles = {name: _profiled(contestant, options.requests) for name, contestant in CONTESTANTS.items()}
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    console.print(_totals(rounds))
    inside = _share_inside()
    console.print(_by_step({name: folded(run, min(rounds[name]), inside) for name, run in profiles.items()}))
    if options.functions:
        for name in ("aigw", "hit"):
            console.print(_by_function(name, profiles[name], options.functions))
    console.print(_NOTE, highlight=False)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/profiling/request-cost", description=__doc__)
    parser.add_argument("--requests", type=_requests, default=20_000, help="in each round (default 20000)")
    parser.add_argument("--rounds", type=int, default=7, help="of each in turn (default 7)")
    parser.add_argument(
        "--functions", type=int, default=0, help="also list this many functions of aigw and of a hit, dearest first"
    )
    return parser.parse_args()


def _requests(text: str) -> int:
    return max(CONNECTIONS, int(text))


def _profiled(contestant: Contestant, requests: int) -> Profiled:
    # Without builtins: C functions count as their caller's, and cost the profiler nothing.
    profile = Profile(builtins=False)
    cost = uvloop.run(measure(contestant, requests, profile))
    spent = [
        Spent(_dotted(entry.code), entry.callcount, sum(each.callcount for each in entry.calls or ()), entry.inlinetime)
        for entry in profile.getstats()
        if isinstance(entry.code, CodeType)
    ]
    return Profiled(spent, requests, cost.elapsed, cost.cpu)


def _share_inside() -> float:
    """How much of what the profiler adds to a call it counts as the called function's: read off one that is empty."""
    profile = Profile(builtins=False)

    def empty() -> None:
        pass

    def calling() -> None:
        for _ in range(_CALIBRATION_CALLS):
            empty()

    profile.enable()
    calling()
    profile.disable()
    alone = {entry.code: entry.inlinetime for entry in profile.getstats()}
    return alone[empty.__code__] / (alone[empty.__code__] + alone[calling.__code__])


def _dotted(code: CodeType) -> str:
    """The name of a function with its module, by the file that it stands in."""
    parts = Path(code.co_filename).with_suffix("").parts
    start = next((len(parts) - 1 - parts[::-1].index(root) for root in _ROOTS if root in parts), -1)
    return ".".join((*parts[start:], code.co_qualname))


def _totals(rounds: dict[str, list[float]]) -> Table:
    made = Table(title="CPU time per request, no sockets", title_justify="left")
    made.add_column("")
    made.add_column("least µs", justify="right")
    made.add_column("median µs", justify="right")
    for name, seconds in rounds.items():
        made.add_row(name, f"{min(seconds) * 1e6:.1f}", f"{median(seconds) * 1e6:.1f}")
    more = [(take(rounds["aigw"]) - take(rounds["bare"])) * 1e6 for take in (min, median)]
    made.add_row("the features", *(f"{each:.1f}" for each in more))
    return made


def _by_step(folds: dict[str, Steps]) -> Table:
    made = Table(title="By step, µs (of the least)", title_justify="left")
    for title in ("step", "bare", "aigw", "more", "hit", "what it does"):
        made.add_column(title, justify="right" if title in {"bare", "aigw", "more", "hit"} else "left")
    bare, full, hit = folds["bare"], folds["aigw"], folds["hit"]
    for step in dict.fromkeys((*MEANINGS, *full, *bare, *hit)):
        each = bare.get(step, 0.0), full.get(step, 0.0), hit.get(step, 0.0)
        made.add_row(step, *_shown(*each), MEANINGS.get(step, "of no step"))
    made.add_section()
    made.add_row("together", *_shown(*(sum(fold.values()) for fold in (bare, full, hit))), "")
    return made


def _shown(bare: float, full: float, hit: float) -> tuple[str, ...]:
    return f"{bare:.1f}", f"{full:.1f}", f"{full - bare:.1f}", f"{hit:.1f}"


def _by_function(name: str, run: Profiled, count: int) -> Table:
    made = Table(title=f"{name} by function, the profiler's cost included", title_justify="left")
    for title in ("function", "step", "calls", "µs"):
        made.add_column(title, justify="right" if title in {"calls", "µs"} else "left")
    for each in sorted(run.spent, key=lambda each: -each.seconds)[:count]:
        calls, cost = each.calls / run.requests, each.seconds / run.requests * 1e6
        made.add_row(each.name, step_of(each.name), f"{calls:.1f}", f"{cost:.2f}")
    return made


if __name__ == "__main__":
    main()
