from services.upstream.stopwatch import Stopwatch


def test_the_first_token_divides_prefill_from_decode() -> None:
    times = iter([10.0, 12.0, 15.0])
    stopwatch = Stopwatch(lambda: next(times))
    stopwatch.note_token()
    stopwatch.note_token()
    timings = stopwatch.timings()
    assert (timings.prefill_seconds, timings.decode_seconds) == (2.0, 3.0)


def test_an_answer_without_tokens_was_all_prefill() -> None:
    times = iter([10.0, 15.0])
    timings = Stopwatch(lambda: next(times)).timings()
    assert (timings.prefill_seconds, timings.decode_seconds) == (5.0, 0.0)
