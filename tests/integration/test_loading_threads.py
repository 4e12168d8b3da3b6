"""Threads in which llama.cpp has computed, or rearranged weights, and that live on: each keeps a team of OpenMP's."""

import threading
from pathlib import Path
from typing import Any

import pytest

from services.worker import loading
from services.worker.llama import LlamaModel
from services.worker.settings import WorkerSettings
from services.worker.speculation import loading as draft_loading

pytestmark = pytest.mark.integration


def test_a_model_and_its_draft_are_loaded_in_threads_that_end(
    scripted_chat_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def make_model(*arguments: Any, **options: Any) -> LlamaModel:
        threads.append(threading.current_thread())
        return LlamaModel(*arguments, **options)

    for module in (loading, draft_loading):
        monkeypatch.setattr(module, "LlamaModel", make_model)
    settings = WorkerSettings(
        name="test", model_path=scripted_chat_model, draft_path=scripted_chat_model, context=512, slots=1
    )
    loaded = loading.load(settings)
    assert loaded.draft_model is not None
    assert len(threads) == 2
    assert not any(thread.is_alive() for thread in threads)
