"""Which model a first request asks for: one that can answer it."""

import pytest

from aigw_daemon.control.example import example
from aigw_daemon.control.schema import Example
from aigw_daemon.link.messages import ModelView


def view(name: str, *can: str) -> ModelView:
    return ModelView(name, 0, capabilities=can)


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ([view("a", "embeddings"), view("b", "chat", "completions")], ("b", "chat/completions")),
        ([view("a-unknown"), view("b", "chat")], ("b", "chat/completions")),
        ([view("b", "chat"), view("a", "chat")], ("a", "chat/completions")),
        ([view("a", "embeddings")], ("a", "embeddings")),
        ([view("a", "rerank")], ("a", "rerank")),
        ([view("a", "completions")], ("a", "completions")),
        ([view("a", "vision")], ("a", "chat/completions")),
        ([view("dall-e-3"), view("gpt-5"), view("babbage-embed")], ("gpt-5", "chat/completions")),
        ([view("BAAI/bge-m3"), view("whisper-1")], ("BAAI/bge-m3", "embeddings")),
        ([view("nomic-embed-text:latest"), view("qwen:latest")], ("qwen:latest", "chat/completions")),
        ([view("jina-reranker-v2")], ("jina-reranker-v2", "rerank")),
    ],
)
def test_model_that_chats_comes_first(models: list[ModelView], expected: tuple[str, str]) -> None:
    assert example(models) == Example(model=expected[0], endpoint=expected[1])


def test_no_model_is_better_than_one_without_an_endpoint() -> None:
    assert example([view("whisper-1"), view("tts-1")]) is None
    assert example([]) is None
