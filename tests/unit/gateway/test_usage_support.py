"""What is remembered of a backend that refuses to be asked for usage."""

import pytest

from aigw_daemon.gateway.usage_support import UsageSupport
from aigw_daemon.gateway.wire import ApiError


@pytest.mark.parametrize(
    ("error", "unknown", "accepted"),
    [
        (ApiError(400, "unknown field stream_options"), True, True),
        (ApiError(422, "Extra inputs are not permitted", param="stream_options.include_usage"), True, True),
        (ApiError(400, "bad request"), True, False),
        (ApiError(413, "stream_options"), False, False),
    ],
)
def test_a_field_that_was_accepted_is_only_at_fault_when_named(error: ApiError, unknown: bool, accepted: bool) -> None:
    support = UsageSupport()
    support.accept("m")
    assert (support.may_be_cause("other", error), support.may_be_cause("m", error)) == (unknown, accepted)
    support.reset()
    assert support.may_be_cause("m", error) is unknown


def test_so_many_models_are_remembered_and_no_more() -> None:
    support = UsageSupport()
    for number in range(1_001):
        support.accept(str(number))
    assert not support.may_be_cause("1000", ApiError(400, "bad request"))
    assert support.may_be_cause("0", ApiError(400, "bad request"))
