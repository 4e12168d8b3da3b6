from services.worker.measured_rate import MeasuredRate


def test_what_was_never_measured_is_tried() -> None:
    rate = MeasuredRate()
    assert rate.beats(1e12)
    assert rate.seconds(100) == 0.0


def test_a_rate_follows_its_measurements() -> None:
    rate = MeasuredRate()
    rate.observe(1000, 1.0)
    assert (rate.beats(1000), rate.beats(1001), rate.seconds(500)) == (True, False, 0.5)
    rate.observe(2000, 1.0)
    assert rate.per_second == 1250


def test_a_rate_that_lost_is_tried_again_some_time() -> None:
    rate = MeasuredRate()
    rate.observe(10, 1.0)
    rounds = 0
    while not rate.beats(100):
        rate.recover()
        rounds += 1
    assert 2 < rounds < 20
