import pytest

from bench.acceptance import accepted_per_draft


def test_a_draft_ends_at_its_first_wrong_guess_and_the_next_begins_behind_the_token_that_corrects_it() -> None:
    hits = [True, True, False, True, False, False]
    assert accepted_per_draft(hits, 4) == pytest.approx((2 + 1 + 0) / 3)


def test_no_draft_is_longer_than_its_length() -> None:
    assert accepted_per_draft([True] * 6, 2) == pytest.approx(2)


def test_of_no_tokens_nothing_is_accepted() -> None:
    assert accepted_per_draft([], 4) == 0.0
