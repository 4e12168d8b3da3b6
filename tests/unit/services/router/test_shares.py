from services.router.shares import HALF_LIFE_SECONDS, Shares


def test_tokens_count_half_after_a_half_life() -> None:
    shares = Shares()
    shares.charge("k", 100, now=0)
    assert shares.used("k", 0) == 100
    assert shares.used("k", HALF_LIFE_SECONDS) == 50
    shares.charge("k", 50, now=HALF_LIFE_SECONDS)
    assert shares.used("k", HALF_LIFE_SECONDS) == 100


def test_an_unknown_key_has_used_nothing() -> None:
    assert Shares().used("k", 5) == 0


def test_what_was_charged_too_much_is_given_back_but_never_more() -> None:
    shares = Shares()
    shares.charge("k", 100, now=0)
    shares.charge("k", -500, now=0)
    assert shares.used("k", 0) == 0


def test_keys_of_long_ago_are_forgotten() -> None:
    shares = Shares()
    for number in range(2000):
        shares.charge(str(number), 10, now=number * 10.0)
    assert len(shares._used) < 1100
