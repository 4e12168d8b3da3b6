import pytest

from localcode.inference.v1 import state_pb2 as pb
from services.router.state import located, numbered
from services.shared.errors import InvalidRequest

FIRST = [pb.Slot(id=0, worker_id="a"), pb.Slot(id=1, worker_id="a")]
SECOND = [pb.Slot(id=0, worker_id="b")]


def test_slots_of_several_workers_are_numbered_through() -> None:
    shown = numbered([FIRST, [], SECOND])
    assert [(slot.id, slot.worker_id) for slot in shown] == [(0, "a"), (1, "a"), (2, "b")]
    assert SECOND[0].id == 0


def test_a_number_leads_to_its_worker() -> None:
    assert [located([FIRST, [], SECOND], number) for number in range(3)] == [(0, 0), (0, 1), (2, 0)]
    with pytest.raises(InvalidRequest, match="0 to 2"):
        located([FIRST, [], SECOND], 3)
