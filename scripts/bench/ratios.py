"""What the figures of one run say of each other: what a proxy adds, ratios, and whether the floors are met. Pure."""

from collections.abc import Callable
from typing import NamedTuple

from scripts.bench.figures import IDLE_STREAMS, Results

YARDSTICK = "bare relay"
"""Server, client and parsers of the gateway without its features. What it is measured by stands on the same server: a
relay on uvicorn is slower, and aigw would look better beside it."""

PAIRS = (
    ("aigw", YARDSTICK),
    (YARDSTICK, "nginx"),
    ("aigw", "nginx"),
    ("aigw", "vllm-router"),
    ("aigw", "bare relay on uvicorn"),
)
"""Which proxies are compared, the first to the second."""


class Floor(NamedTuple):
    """What aigw with everything on has to reach, of the yardstick."""

    what: str
    figure: Callable[[Results, str], float | None]
    least: float | None = None
    most: float | None = None

    def met_by(self, ratio: float) -> bool:
        """Whether this ratio reaches it."""
        return (self.least is None or ratio >= self.least) and (self.most is None or ratio <= self.most)


def typical(figure: str) -> Callable[[Results, str], float | None]:
    """Reads the median of this figure."""

    def read(results: Results, name: str) -> float | None:
        figures = results.get(name)
        return figures.typical(figure) if figures else None

    return read


def added(figure: str) -> Callable[[Results, str], float | None]:
    """Reads what a proxy adds to the latency of `direct`."""
    whole = typical(figure)

    def read(results: Results, name: str) -> float | None:
        own, base = whole(results, name), whole(results, "direct")
        return None if own is None or base is None or name == "direct" else own - base

    return read


FLOORS = (
    Floor("requests per second on 32 connections", typical("requests_32"), least=0.60),
    Floor("CPU time per streamed event", typical("cpu_us_per_event"), most=1.5),
    Floor("added p50 on one connection", added("p50_ms"), most=2.0),
)


def ratio(results: Results, pair: tuple[str, str], figure: Callable[[Results, str], float | None]) -> float | None:
    """The first proxy's figure by the second one's; None where either was not measured."""
    one, other = (figure(results, name) for name in pair)
    return one / other if one is not None and other is not None and other > 0 else None


def verdicts(results: Results) -> list[str]:
    """One sentence for each floor, and one for the aim beyond them. Nothing of what was not measured."""
    said = [_verdict(floor, found) for floor in FLOORS if (found := ratio(results, ("aigw", YARDSTICK), floor.figure))]
    ahead = ratio(results, ("aigw", "vllm-router"), typical("requests_32"))
    if ahead is not None:
        said.append(f"requests per second on 32 connections: {ahead:.2f} of vllm-router's; the aim is to be ahead")
    return said


def _verdict(floor: Floor, found: float) -> str:
    limit = f"at least {floor.least:.2f}" if floor.least is not None else f"at most {floor.most:.2f}"
    outcome = "met" if floor.met_by(found) else "MISSED"
    return f"{floor.what}: {found:.2f} of the {YARDSTICK}'s; floor {limit}: {outcome}"


def per_stream_kb(results: Results, name: str) -> float | None:
    """What one idle stream takes, in KB; None where none was open or nothing was measured."""
    before, during = typical("started_mb")(results, name), typical("streaming_mb")(results, name)
    if before is None or during is None:
        return None
    opened = IDLE_STREAMS - results[name].lost_idle_streams
    return (during - before) * 1e3 / opened if opened > 0 else None
