from dataclasses import dataclass

import pytest

from localcode.inference.v1 import inference_pb2 as pb
from services.router.admission import AGEING_SECONDS, in_line, is_background, level, refused, retry_after_seconds

MAIN, TITLE, SUBAGENT = pb.REQUEST_CLASS_MAIN, pb.REQUEST_CLASS_TITLE, pb.REQUEST_CLASS_SUBAGENT


@dataclass(frozen=True)
class Request:
    name: str
    request_class: "pb.RequestClass.ValueType" = MAIN
    key_id: str = "k"
    arrived_at: float = 0.0
    has_begun: bool = False


def line(*requests: Request, now: float = 0.0, **used: float) -> str:
    return "".join(one.name for one in in_line(requests, used, now))


def test_who_came_first_goes_first() -> None:
    assert line(Request("b", arrived_at=2), Request("a", arrived_at=1), now=3) == "ab"


def test_what_a_person_waits_for_goes_first() -> None:
    assert line(Request("t", TITLE), Request("s", SUBAGENT), Request("m", arrived_at=1), now=2) == "mst"


def test_age_outweighs_the_class() -> None:
    assert line(Request("t", TITLE), Request("m", arrived_at=61), now=3 * AGEING_SECONDS + 2) == "tm"
    assert level(Request("t", TITLE), 1000.0) == 0


def test_an_answer_that_has_begun_goes_before_all() -> None:
    assert line(Request("m"), Request("b", TITLE, arrived_at=9, has_begun=True), now=9) == "bm"


def test_the_key_that_had_least_goes_first() -> None:
    requests = [Request("1", key_id="greedy"), Request("2", key_id="greedy"), Request("3", key_id="modest")]
    assert line(*requests, greedy=9000, modest=100) == "312"


def test_an_old_request_of_a_greedy_key_does_not_go_before_a_modest_one() -> None:
    requests = [Request("g", key_id="greedy"), Request("m", key_id="modest", arrived_at=500)]
    assert line(*requests, now=500, greedy=9000) == "mg"


def test_only_titles_and_compactions_are_background() -> None:
    kinds = [kind for kind in pb.RequestClass.values() if is_background(kind)]
    assert kinds == [TITLE, pb.REQUEST_CLASS_COMPACTION]


def test_there_is_room_up_to_the_limit() -> None:
    waiting = [Request(str(number)) for number in range(3)]
    assert refused(waiting, Request("n"), limit=4, now=0) is None


def test_a_full_queue_of_equals_refuses_the_newcomer() -> None:
    waiting = [Request("a", key_id="x"), Request("b", key_id="y")]
    newcomer = Request("n", key_id="z")
    assert refused(waiting, newcomer, limit=2, now=0) is newcomer


def test_a_greedy_keys_last_request_makes_room_for_another_key() -> None:
    waiting = [Request(str(number), key_id="greedy", arrived_at=number) for number in range(4)]
    assert refused(waiting, Request("n", key_id="modest"), limit=4, now=9) is waiting[-1]
    assert refused(waiting, mine := Request("n", key_id="greedy"), limit=4, now=9) is mine


def test_background_work_of_the_greedy_key_goes_first() -> None:
    waiting = [Request("t", TITLE, key_id="greedy"), Request("m", key_id="greedy", arrived_at=5)]
    assert refused(waiting, Request("n", key_id="modest"), limit=2, now=6) is waiting[0]


def test_an_answer_that_has_begun_is_never_refused() -> None:
    begun = Request("b", key_id="greedy", has_begun=True)
    assert refused([Request("a")], begun, limit=0, now=0) is None
    assert refused([begun], mine := Request("n", key_id="other"), limit=1, now=0) is mine


@pytest.mark.parametrize(("count", "seconds"), [(0, 1.0), (8, 10.0), (500, 30.0)])
def test_the_time_to_come_back_is_when_half_of_the_queue_has_gone(count: int, seconds: float) -> None:
    assert retry_after_seconds(count, slot_count=4, request_seconds=10) == seconds
