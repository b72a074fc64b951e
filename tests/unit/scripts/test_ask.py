"""`scripts/ask.py` prints an answer as it streams, and says what went wrong when none comes."""

import pytest

from scripts.ask import main
from tests.support.fixed_gateway import fixed_gateway


def test_the_answer_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with fixed_gateway() as url:
        assert main(url, "smollm2:135m", "What is it?") == 0

    assert capsys.readouterr().out == "It speaks plainly.\n"


def test_a_refusal_is_shown_in_the_gateways_words(capsys: pytest.CaptureFixture[str]) -> None:
    with fixed_gateway(404, '{"error":{"code":"model_not_found"}}') as url:
        assert main(url, "nothing", "What is it?") == 1

    assert "status 404" in (error := capsys.readouterr().err)
    assert "model_not_found" in error


def test_an_error_inside_the_stream_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with fixed_gateway(200, 'data: {"error":{"message":"the engine died"}}\n\n') as url:
        assert main(url, "smollm2:135m", "What is it?") == 1

    assert "the engine died" in capsys.readouterr().err


def test_nobody_there_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with fixed_gateway() as url:
        gone = url

    assert main(gone, "smollm2:135m", "What is it?") == 1
    assert capsys.readouterr().err.startswith(f"cannot get an answer from {gone}: ")
