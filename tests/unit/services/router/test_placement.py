import pytest

from services.router.placement import Candidate, Need, choose, expect, others_load, ranked

ANY = Need()


def test_without_candidates_nobody_is_chosen() -> None:
    assert choose([], ANY) is None


def test_the_least_loaded_worker_is_chosen() -> None:
    assert choose([Candidate("a", load=2), Candidate("b", load=1), Candidate("c", load=3)], ANY) == "b"


def test_a_draining_worker_is_never_chosen() -> None:
    draining = Candidate("a", load=0, is_draining=True)
    assert choose([draining, Candidate("b", load=9)], ANY) == "b"
    assert choose([draining], ANY) is None


def test_equals_take_turns() -> None:
    assert choose([Candidate("a", load=0, last_chosen=7), Candidate("b", load=0, last_chosen=6)], ANY) == "b"
    assert choose([Candidate("a", load=0, last_chosen=7), Candidate("b", load=0, last_chosen=8)], ANY) == "a"


def test_full_equals_are_taken_by_id() -> None:
    assert choose([Candidate("b", load=0), Candidate("a", load=0)], ANY) == "a"


def test_a_request_waits_while_all_are_full() -> None:
    assert choose([Candidate("a", load=2, slot_count=2), Candidate("b", load=3, slot_count=2)], ANY) is None


A_FREE = {"load": 0, "slot_count": 4, "prefill_rate": 100.0}
A_BUSY = {"load": 3, "slot_count": 4, "prefill_rate": 100.0}
A_FULL = {"load": 4, "slot_count": 4, "prefill_rate": 100.0}


@pytest.mark.parametrize(
    ("a", "b", "seconds", "chosen"),
    [
        pytest.param({**A_FREE}, {**A_FREE, "cached_token_count": 900}, 10, "b", id="what is cached is not computed"),
        pytest.param({**A_FREE}, {**A_BUSY, "cached_token_count": 900}, 10, "b", id="a busy worker computes less"),
        pytest.param({**A_FREE, "cached_token_count": 998}, {**A_BUSY, "cached_token_count": 1000}, 10, "a", id="load"),
        pytest.param({**A_FREE}, {**A_FULL, "cached_token_count": 1000}, 10, None, id="waiting 2.5 s beats 10 s"),
        pytest.param({**A_FREE}, {**A_FULL, "cached_token_count": 1000}, 60, "a", id="computing 10 s beats 15 s"),
        pytest.param({**A_FREE}, {**A_FREE, "prefill_rate": 900.0}, 10, "b", id="a faster worker"),
        pytest.param({**A_FREE, "backlog_token_count": 5000}, {**A_FREE}, 10, "b", id="prompts before this one"),
        pytest.param({**A_FREE, "load": 1}, {**A_FREE, "load": 1, "has_sibling": True}, 10, "b", id="siblings"),
        pytest.param(
            {**A_FREE},
            {**A_FREE, "load": 1, "has_sibling": True, "cached_token_count": 970, "backlog_token_count": 990},
            10,
            "b",
            id="waiting for a sibling's prompt beats computing the same again",
        ),
        pytest.param({**A_FREE}, {**A_BUSY, "has_sibling": True}, 10, "a", id="siblings part where that is faster"),
    ],
)
def test_the_worker_with_the_soonest_first_token_is_chosen(
    a: dict[str, float], b: dict[str, float], seconds: float, chosen: str | None
) -> None:
    candidates = [Candidate("a", **a), Candidate("b", **b)]  # type: ignore[arg-type]
    assert choose(candidates, Need(prompt_token_count=1000, request_seconds=seconds)) == chosen


def test_nobody_waits_for_a_full_worker_that_knows_no_more_than_a_free_one() -> None:
    slow = Candidate("a", load=1, slot_count=2, backlog_token_count=50_000)
    full = Candidate("b", load=2, slot_count=2)
    assert [one.worker_id for one in ranked([slow, full], Need(request_seconds=0.4))] == ["b", "a"]
    assert choose([slow, full], Need(request_seconds=0.4)) == "a"


def test_a_request_that_waited_for_its_worker_in_vain_goes_elsewhere() -> None:
    candidates = [Candidate("a", **A_FREE), Candidate("b", **A_FULL, cached_token_count=1000)]  # type: ignore[arg-type]
    assert choose(candidates, Need(prompt_token_count=1000, waited_seconds=1)) is None
    assert choose(candidates, Need(prompt_token_count=1000, waited_seconds=9)) == "a"


def test_background_work_leaves_a_slot_free_where_there_are_enough() -> None:
    assert choose([Candidate("a", load=3, slot_count=4)], Need(reserve=1)) is None
    assert choose([Candidate("a", load=2, slot_count=4)], Need(reserve=1)) == "a"
    assert choose([Candidate("a", load=1, slot_count=2)], Need(reserve=1)) == "a"
    assert choose([Candidate("a", load=3, slot_count=4), Candidate("b", load=9)], Need(reserve=1)) == "b"


def test_what_is_expected_adds_up() -> None:
    wait = expect(
        Candidate("a", load=5, slot_count=4, prefill_rate=100, cached_token_count=400),
        Need(prompt_token_count=1000, request_seconds=8),
    )
    assert (wait.queue_seconds, wait.prefill_seconds) == (4.0, 12.0)
    assert wait.first_token_seconds == 16.0


def test_a_worker_that_holds_more_than_the_prompt_computes_nothing() -> None:
    assert expect(Candidate("a", load=0, cached_token_count=50), Need(prompt_token_count=9)).prefill_seconds == 0


def test_all_are_ranked() -> None:
    assert [one.worker_id for one in ranked([Candidate("a", load=2), Candidate("b", load=1)], ANY)] == ["b", "a"]


def test_load_that_we_caused_is_not_counted_twice() -> None:
    assert others_load(reported=3, own_open=3, own_recent=0) == 0
    assert others_load(reported=3, own_open=1, own_recent=0) == 2


def test_a_request_that_has_just_ended_does_not_make_a_worker_look_busy() -> None:
    assert others_load(reported=1, own_open=0, own_recent=1) == 0


def test_load_is_never_negative() -> None:
    assert others_load(reported=0, own_open=2, own_recent=1) == 0
