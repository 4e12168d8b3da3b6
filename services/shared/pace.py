"""When what is done again and again is done: at the same moments in all processes of a machine.

Each call wakes threads of gRPC in both processes, which then look for more work a dozen times. Where they wake for all
calls at once, they take the less of a processor that llama.cpp keeps busy.
"""


def until_next(period_seconds: float, now: float) -> float:
    """Seconds until a clock that all processes share, such as `time.monotonic`, reaches a whole multiple of a period.

    More than half of the period, so that nothing is done twice for a moment that was just missed.
    """
    left = period_seconds - now % period_seconds
    return left if left > period_seconds / 2 else left + period_seconds
