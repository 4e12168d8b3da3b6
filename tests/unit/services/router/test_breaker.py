from services.router.breaker import FAILURES_TO_OPEN, FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Breaker


def opened(*, at: float = 100.0, failures: int = FAILURES_TO_OPEN) -> Breaker:
    breaker = Breaker()
    for _ in range(failures):
        breaker.fail(at)
    return breaker


def test_a_few_failures_keep_nobody_away() -> None:
    assert opened(failures=FAILURES_TO_OPEN - 1).allows(100.0)


def test_failures_in_a_row_keep_requests_away_for_a_while() -> None:
    breaker = opened()
    assert not breaker.allows(100.0 + FIRST_PAUSE_SECONDS - 0.1)
    assert breaker.allows(100.0 + FIRST_PAUSE_SECONDS)


def test_one_request_at_a_time_tries_again() -> None:
    breaker = opened()
    breaker.begin()
    assert not breaker.allows(200.0)
    breaker.abandon()
    assert breaker.allows(200.0)


def test_a_success_closes_it() -> None:
    breaker = opened()
    breaker.begin()
    breaker.succeed()
    assert breaker == Breaker(open_until=breaker.open_until)
    assert breaker.allows(100.0)


def test_each_further_failure_doubles_the_pause_up_to_a_limit() -> None:
    breaker = opened()
    breaker.fail(200.0)
    assert not breaker.allows(200.0 + 2 * FIRST_PAUSE_SECONDS - 0.1)
    assert breaker.allows(200.0 + 2 * FIRST_PAUSE_SECONDS)
    for _ in range(50):
        breaker.fail(300.0)
    assert breaker.allows(300.0 + LONGEST_PAUSE_SECONDS)


def test_a_success_between_failures_counts_anew() -> None:
    breaker = opened(failures=FAILURES_TO_OPEN - 1)
    breaker.succeed()
    breaker.fail(100.0)
    assert breaker.allows(100.0)
