from services.router.placement import Candidate, choose, others_load


def test_without_candidates_nobody_is_chosen() -> None:
    assert choose([]) is None


def test_the_least_loaded_worker_is_chosen() -> None:
    assert choose([Candidate("a", load=2), Candidate("b", load=1), Candidate("c", load=3)]) == "b"


def test_a_draining_worker_is_never_chosen() -> None:
    draining = Candidate("a", load=0, is_draining=True)
    assert choose([draining, Candidate("b", load=9)]) == "b"
    assert choose([draining], knows_conversation=["a"]) is None


def test_equals_take_turns() -> None:
    assert choose([Candidate("a", load=0, last_chosen=7), Candidate("b", load=0, last_chosen=6)]) == "b"
    assert choose([Candidate("a", load=0, last_chosen=7), Candidate("b", load=0, last_chosen=8)]) == "a"


def test_full_equals_are_taken_by_id() -> None:
    assert choose([Candidate("b", load=0), Candidate("a", load=0)]) == "a"


def test_a_worker_that_knows_the_conversation_is_preferred() -> None:
    candidates = [Candidate("a", load=0, slot_count=4), Candidate("b", load=1, slot_count=4)]
    assert choose(candidates, knows_conversation=["b"]) == "b"


def test_the_latest_of_those_that_know_the_conversation_is_taken() -> None:
    candidates = [Candidate("a", load=0), Candidate("b", load=0), Candidate("c", load=0)]
    assert choose(candidates, knows_conversation=["gone", "c", "b"]) == "c"


def test_knowing_the_conversation_is_no_reason_to_wait_for_a_slot() -> None:
    candidates = [Candidate("a", load=0, slot_count=4), Candidate("b", load=4, slot_count=4)]
    assert choose(candidates, knows_conversation=["b"]) == "a"


def test_load_that_we_caused_is_not_counted_twice() -> None:
    assert others_load(reported=3, own_open=3, own_recent=0) == 0
    assert others_load(reported=3, own_open=1, own_recent=0) == 2


def test_a_request_that_has_just_ended_does_not_make_a_worker_look_busy() -> None:
    assert others_load(reported=1, own_open=0, own_recent=1) == 0


def test_load_is_never_negative() -> None:
    assert others_load(reported=0, own_open=2, own_recent=1) == 0
