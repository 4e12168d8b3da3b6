from dataclasses import replace

import pytest

from cli.residency import Limits, Resident, State, Steps, Why, loaded_at_start, misfits, next_steps

GB = 10**9
LIMITS = Limits(memory_bytes=10 * GB)
NOW = 1000.0


def model(name: str, state: State = State.LOADED, *, gb: int = 4, **fields: object) -> Resident:
    return Resident(name, gb * GB, state, **{"state_since": 900.0, "used_at": 950.0, **fields})  # type: ignore[arg-type]


def wanted(name: str, *, since: float = 999.0, gb: int = 4) -> Resident:
    return model(name, State.UNLOADED, gb=gb, wanted_since=since, waiting_count=1)


def test_nothing_happens_where_nobody_wants_anything() -> None:
    assert next_steps([model("a"), model("b", State.UNLOADED)], LIMITS, NOW) == Steps()


def test_what_is_wanted_and_fits_is_loaded_oldest_wish_first() -> None:
    models = [wanted("a", since=999), wanted("b", since=990), model("c", gb=1)]
    assert next_steps(models, LIMITS, NOW).load == ("b", "a")


def test_without_a_limit_everything_fits() -> None:
    models = [wanted("a", gb=500), model("b", gb=500)]
    assert next_steps(models, Limits(), NOW).load == ("a",)


def test_the_least_recently_used_model_makes_room() -> None:
    models = [model("a", used_at=980), model("b", used_at=960), wanted("c")]
    assert next_steps(models, LIMITS, NOW) == Steps(drain=(("b", Why.ROOM),))


def test_only_as_many_are_drained_as_are_needed_and_all_of_them_at_once() -> None:
    models = [model("a", gb=2, used_at=1), model("b", gb=3, used_at=2), model("c", gb=5, used_at=3), wanted("d", gb=5)]
    assert [name for name, _ in next_steps(models, LIMITS, NOW).drain] == ["a", "b"]


def test_a_pinned_model_is_never_drained() -> None:
    models = [model("a", used_at=1, is_pinned=True), model("b"), wanted("c")]
    assert next_steps(models, LIMITS, NOW).drain == (("b", Why.ROOM),)
    idle = Limits(10 * GB, idle_seconds=10)
    assert next_steps([model("a", used_at=1, is_pinned=True)], idle, NOW) == Steps()


def test_a_model_that_answers_is_left_alone() -> None:
    models = [model("a", open_count=1), model("b", open_count=1), wanted("c")]
    assert next_steps(models, LIMITS, NOW) == Steps()


def test_after_a_while_a_model_in_use_takes_no_more_requests_for_one_that_waits() -> None:
    models = [model("a", open_count=1, waiting_count=3), model("b", open_count=1, used_at=960), wanted("c", since=985)]
    assert next_steps(models, LIMITS, NOW).drain == (("a", Why.ROOM),)


def test_a_model_in_use_that_was_loaded_just_now_stays_for_a_while() -> None:
    models = [model("a", gb=8, open_count=1, state_since=995.0), wanted("c", since=900)]
    assert next_steps(models, LIMITS, NOW) == Steps()


def test_nothing_is_drained_in_vain() -> None:
    models = [model("a", gb=2), model("b", gb=8, open_count=1), wanted("c", gb=9)]
    assert next_steps(models, LIMITS, NOW) == Steps()


def test_what_is_on_its_way_out_counts_as_room_to_come() -> None:
    models = [model("a", State.DRAINING, open_count=1), model("b"), wanted("c")]
    assert next_steps(models, LIMITS, NOW).drain == ()


def test_a_small_model_does_not_take_the_room_that_an_older_wish_waits_for() -> None:
    models = [model("a", gb=6, open_count=1), wanted("big", gb=8, since=995), wanted("small", gb=2, since=999)]
    assert next_steps(models, LIMITS, NOW).load == ()


def test_an_idle_model_is_drained_after_its_time() -> None:
    limits = Limits(idle_seconds=60)
    models = [model("a", used_at=930), model("b", used_at=950), model("c", used_at=1, open_count=1)]
    assert next_steps(models, limits, NOW).drain == (("a", Why.IDLE),)


def test_a_drained_model_ends_once_its_answers_are_whole_and_all_routers_know() -> None:
    drained = model("a", State.DRAINING, state_since=997.0)
    assert next_steps([drained], LIMITS, NOW).end == ("a",)
    assert next_steps([replace(drained, open_count=1)], LIMITS, NOW).end == ()
    assert next_steps([replace(drained, state_since=998.0)], LIMITS, NOW).end == ()


def test_an_idle_model_that_is_wanted_while_it_drains_stays() -> None:
    drained = model("a", State.DRAINING, state_since=990.0, waiting_count=1, why=Why.IDLE)
    assert next_steps([drained], LIMITS, NOW) == Steps(keep=("a",))
    assert next_steps([replace(drained, why=Why.ROOM)], LIMITS, NOW) == Steps(end=("a",))


@pytest.mark.parametrize(
    ("limits", "names"),
    [(Limits(), ["small", "b", "a"]), (LIMITS, ["small", "b"]), (Limits(5 * GB), ["small"])],
)
def test_at_start_the_pinned_and_the_default_are_loaded_and_what_else_fits(limits: Limits, names: list[str]) -> None:
    models = [model("a", gb=5), model("b"), model("small", gb=2, is_pinned=True)]
    assert loaded_at_start(models, limits, default="b") == names


def test_models_that_can_never_be_loaded_are_named() -> None:
    small = model("small", gb=3, is_pinned=True)
    assert misfits([model("a", gb=7), small], LIMITS) == []
    assert misfits([model("a", gb=8), small], LIMITS) == ["a"]
    assert misfits([model("a", gb=8), small], Limits()) == []
    assert misfits([model("a", gb=11, is_pinned=True)], LIMITS) == ["a"]
