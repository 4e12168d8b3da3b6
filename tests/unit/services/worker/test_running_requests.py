"""What the requests of an engine are, taken together."""

import time
from types import SimpleNamespace
from typing import Any, cast

from services.worker.requests import Requests


def running(*works: SimpleNamespace) -> Requests:
    requests = Requests(cast("Any", SimpleNamespace(sequence_count=4)), cast("Any", None), at_most=8)
    requests.running = list(cast("Any", works))
    return requests


def work(*, is_decoding: bool, is_batch: bool = False) -> SimpleNamespace:
    return SimpleNamespace(is_decoding=is_decoding, is_batch=is_batch, arrived_at=time.monotonic())


def test_a_title_is_no_stream_that_a_main_request_s_prompt_is_cut_to_short_steps_for() -> None:
    title = work(is_decoding=True, is_batch=True)
    assert not running(title, work(is_decoding=False)).is_streaming
    assert running(title).is_streaming
    assert running(title, work(is_decoding=True)).is_streaming


def test_only_titles_and_summaries_are_not_urgent() -> None:
    title = work(is_decoding=True, is_batch=True)
    assert not running(title).are_urgent
    assert running(title, work(is_decoding=False)).are_urgent
    assert not running().are_urgent
