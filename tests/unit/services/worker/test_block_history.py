from localcode.inference.v1 import inference_pb2 as pb
from services.worker.block_history import BlockHistory
from services.worker.write_policy import Origin, Part

MAIN, TITLE, SUBAGENT = pb.REQUEST_CLASS_MAIN, pb.REQUEST_CLASS_TITLE, pb.REQUEST_CLASS_SUBAGENT
COMPACTION = pb.REQUEST_CLASS_COMPACTION
PROMPT = [b"tools", b"task"]


def note(history: BlockHistory, hashes: list[bytes], kind: "pb.RequestClass.ValueType" = MAIN, system: int = 1) -> None:
    history.note_prompt(hashes, request_class=kind, system_block_count=system)


def test_a_prompt_names_its_blocks_by_where_they_lie_and_how_often_they_came() -> None:
    history = BlockHistory()
    note(history, PROMPT)
    note(history, PROMPT[:1])
    assert history.origin(b"tools", b"root") == Origin(MAIN, Part.SYSTEM, 2, has_returned=True)
    assert history.origin(b"task", b"tools") == Origin(MAIN, Part.HISTORY, 1)
    assert (history.seen_count(b"tools"), history.seen_count(b"other")) == (2, 0)


def test_an_unnamed_block_was_generated_behind_the_one_before_it() -> None:
    history = BlockHistory()
    note(history, PROMPT, SUBAGENT)
    assert history.origin(b"answer", b"task") == Origin(SUBAGENT, Part.GENERATED, 0)
    assert history.origin(b"answer", b"nobody's") == Origin()


def test_a_call_marks_the_whole_conversation_until_its_next_prompt() -> None:
    history = BlockHistory()
    note(history, PROMPT)
    history.note_answer([*PROMPT, b"answer"], request_class=MAIN, goes_on=True)
    assert all(history.origin(name, b"").goes_on for name in (*PROMPT, b"answer"))
    note(history, PROMPT, COMPACTION)
    assert history.origin(b"task", b"").goes_on
    note(history, PROMPT)
    assert not history.origin(b"task", b"").goes_on
    assert history.origin(b"answer", b"").goes_on  # until its own prompt comes


def test_the_next_turn_of_a_subagent_is_no_return_but_a_prompt_behind_its_end_is() -> None:
    history = BlockHistory()
    note(history, PROMPT, SUBAGENT)
    history.note_answer([*PROMPT, b"call"], request_class=SUBAGENT, goes_on=True)
    note(history, [*PROMPT, b"call"], SUBAGENT)
    history.note_answer([*PROMPT, b"call", b"end"], request_class=SUBAGENT, goes_on=False)
    assert not any(history.origin(name, b"").has_returned for name in (*PROMPT, b"call", b"end"))
    note(history, [*PROMPT, b"call", b"end", b"new"], SUBAGENT)
    returned = [history.origin(name, b"").has_returned for name in (*PROMPT, b"call", b"end", b"new")]
    assert returned == [True, True, True, True, False]


def test_a_block_of_several_kinds_of_requests_is_of_the_kind_that_returns() -> None:
    for kinds in ((TITLE, MAIN), (MAIN, TITLE)):
        history = BlockHistory()
        for kind in kinds:
            note(history, PROMPT, kind)
        assert history.origin(b"tools", b"").request_class == MAIN


def test_what_was_not_seen_for_longest_is_forgotten() -> None:
    history = BlockHistory(most_blocks=2)
    note(history, [b"a", b"b"])
    note(history, [b"a"])
    note(history, [b"c"])
    assert [history.seen_count(name) for name in (b"a", b"b", b"c")] == [2, 0, 1]


def test_memory_gives_up_what_never_returns_first() -> None:
    history = BlockHistory()
    note(history, [b"title"], TITLE)
    note(history, PROMPT)
    uses = [history.expected_uses(name) for name in (b"tools", b"task", b"title")]
    assert uses[0] > uses[1] > uses[2] == 0
    assert history.expected_uses(b"unknown") > 0
