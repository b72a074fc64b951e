"""What counts as what in a storm."""

import math

import pytest

from scripts.bench.storm_tally import Asked, End, is_clean, judge, lines, outages, table

WHOLE = "0:ab 1:cd "


def asked(
    got: str = WHOLE, *, finished: bool = True, error: str | None = None, began: float = 10.0, told: bool = False
) -> Asked:
    return Asked(0, began, began + 2.0, WHOLE, got, finished, error, told)


@pytest.mark.parametrize(
    ("request_", "end"),
    [
        pytest.param(asked(), End.RIGHT, id="whole"),
        pytest.param(asked("0:ab "), End.SHORT, id="cut, and nobody said so"),
        pytest.param(asked(""), End.SHORT, id="empty"),
        pytest.param(asked("0:ab 1:xx "), End.WRONG, id="another answer"),
        pytest.param(asked("1:cd ", finished=False, error="cut"), End.WRONG, id="another answer, cut"),
        pytest.param(asked("0:ab ", finished=False, error="stream_cut"), End.CUT, id="cut"),
        pytest.param(asked("0:ab ", finished=False), End.CUT, id="ended without a finish"),
        pytest.param(asked("", finished=False, error="503"), End.FAILED, id="refused"),
        pytest.param(asked("", finished=False, error="reset", began=4.0), End.WORKER, id="the worker died meanwhile"),
        pytest.param(
            asked("", finished=False, error="reset", began=3.0), End.WORKER, id="and was noticed a little late"
        ),
        pytest.param(asked("", finished=False, error="refused", began=5.1), End.FAILED, id="there was one again"),
        pytest.param(
            asked("", finished=False, error="503", began=4.0, told=True), End.FAILED, id="the gateway said so"
        ),
    ],
)
def test_how_a_request_ended(request_: Asked, end: End) -> None:
    assert judge(request_, [(5.0, 5.05)]) is end


def test_an_outage_lasts_until_somebody_is_answered() -> None:
    assert outages([asked(began=4.0), asked(began=9.0)], [7.0, 20.0]) == [(7.0, 11.0), (20.0, math.inf)]


def test_counts_are_told_by_the_clients_own_retries() -> None:
    counts = table([asked(), asked("", finished=False, error="503")], [])
    assert counts == {0: {End.RIGHT: 1, End.FAILED: 1}}
    assert not is_clean(counts)
    assert "| requests | 2 |" in lines(counts)
    assert is_clean(table([asked(), asked("0:ab ", finished=False)], []))
