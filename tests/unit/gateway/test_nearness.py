"""Names that are like an unknown one."""

import pytest

from aigw_daemon.gateway.nearness import Nearness

MANY = [f"vendor/model-{number}:big" for number in range(1_000)]


@pytest.mark.parametrize(
    ("unknown", "first"),
    [
        ("llama3.2:latest", "llama3.1:latest"),
        ("qwen-codr", "qwen-coder"),
        ("vendor/model77:big", "vendor/model-77:big"),
    ],
)
def test_the_most_alike_is_named_first_among_a_thousand(unknown: str, first: str) -> None:
    assert Nearness([*MANY, "qwen-coder", "llama3.1:latest"]).of(unknown)[0] == first


@pytest.mark.parametrize("unknown", ["", "z", "\x00", "x" * 512, "日本語"])
def test_what_is_like_nothing_finds_nothing(unknown: str) -> None:
    assert Nearness([*MANY, "qwen-coder"]).of(unknown) == ()


def test_at_most_three_are_named() -> None:
    assert len(Nearness(MANY).of("vendor/model-1:big")) == 3
    assert Nearness([]).of("x") == ()


@pytest.mark.parametrize(("unknown", "near"), [("ECHO", "echo"), ("echo", "Echo"), ("QWEN-Coder", "qwen-coder")])
def test_a_name_in_another_case_is_named(unknown: str, near: str) -> None:
    assert Nearness([*MANY, near]).of(unknown) == (near,)
