from typing import Any

import pytest
from structlog.testing import capture_logs

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.explain import Comparison, Explainer, ModelText, explanation
from services.worker.prompt_difference import Difference
from services.worker.prompt_places import line_at, place_of

RULES = "".join(f"Rule {number}: be precise about {number * 7}.\n" for number in range(40))
ROLES = {"system": pb.ROLE_SYSTEM, "user": pb.ROLE_USER, "assistant": pb.ROLE_ASSISTANT, "tool": pb.ROLE_TOOL}


def chat_of(*messages: tuple[str, str], tools: tuple[str, ...] = ()) -> pb.ChatPrompt:
    return pb.ChatPrompt(
        messages=[
            pb.Message(role=ROLES[role], content=[pb.ContentPart(text=text)] if text else []) for role, text in messages
        ],
        tools=[pb.Tool(name=name) for name in tools],
    )


def rendered(chat: pb.ChatPrompt) -> str:
    """A template that trims messages, and puts tools behind the system text."""
    parts = []
    for message in chat.messages:
        text = "".join(part.text for part in message.content).strip()
        if message.role == pb.ROLE_SYSTEM and chat.tools:
            text += "\n\nTools:\n" + "\n".join(f'{{"name": "{tool.name}"}}' for tool in chat.tools)
        parts.append(f"<|{pb.Role.Name(message.role)}|>\n{text}\n")
    return "".join(parts)


def request_of(chat: pb.ChatPrompt, *, key: str = "k") -> pb.GenerateRequest:
    return pb.GenerateRequest(request_id="r", chat=chat, context=pb.RequestContext(key_id=key))


def explainer(**values: Any) -> Explainer:
    return Explainer(ModelText("coder", values.pop("layout", "template"), lambda token: bytes([token])), **values)


def say(
    made: Explainer, chat: pb.ChatPrompt, *, cached: int = 0, key: str = "k", answer: str = ""
) -> pb.CacheExplanation:
    """Plays a whole request whose tokens are the bytes of its prompt."""
    request, tokens = request_of(chat, key=key), list(rendered(chat).encode())
    comparison = made.compare(request, tokens, keeps_state=True)
    usage = pb.Usage(prompt_token_count=len(tokens), cached_token_count=cached)
    finish = pb.Finish(usage=usage)
    made.complete(request, comparison, finish, prefill_rate=100.0)
    made.settle(comparison, [*tokens, *answer.encode()])
    return finish.cache


def environment(directory: str) -> pb.ChatPrompt:
    system = f"You are an agent.\n<env>\nDirectory: {directory}\n</env>\n{RULES}"
    return chat_of(("system", system), ("user", "Hello"), tools=("read", "write"))


CHAT = chat_of(("system", "  Be brief.\n"), ("user", "One"), ("assistant", "Two"), ("user", "One"), tools=("read",))


@pytest.mark.parametrize(
    ("wanted", "message", "in_tools"),
    [("Be brief", 0, False), ('{"name"', None, True), ("Two", 2, False), ("<|ROLE_SYSTEM", None, False)],
)
def test_a_place_is_in_the_message_that_stands_there(wanted: str, message: int | None, in_tools: bool) -> None:
    text = rendered(CHAT)
    place = place_of(CHAT, text, text.index(wanted), token_index=3)
    assert (place.message_index if place.HasField("message_index") else None) == message
    assert (place.in_tools, place.token_index) == (in_tools, 3)


def test_a_message_said_twice_is_found_at_its_own_place() -> None:
    text = rendered(CHAT)
    assert place_of(CHAT, text, text.rindex("One"), token_index=0).message_index == 3
    assert place_of(CHAT, text, text.index("One"), token_index=0).message_index == 1


def test_an_excerpt_is_a_part_of_one_line() -> None:
    text = "first\n" + "x" * 300 + "HERE" + "y" * 300 + "\nlast"
    line = line_at(text, text.index("HERE"))
    assert "HERE" in line.excerpt
    assert len(line.excerpt) <= 122
    assert (line.excerpt[0], line.excerpt[-1]) == ("…", "…")
    assert line_at("a\nbc\nd", 3).excerpt == "bc"


def test_an_unknown_prompt_is_called_so() -> None:
    told = say(explainer(), chat_of(("user", "Hello")))
    assert told.miss == pb.CACHE_MISS_UNKNOWN
    assert not told.HasField("place")


def test_the_next_turn_misses_nothing() -> None:
    made = explainer()
    first = chat_of(("system", RULES), ("user", "Hello"))
    say(made, first, answer="<|ROLE_ASSISTANT|>\nx")
    told = say(
        made, chat_of(("system", RULES), ("user", "Hello"), ("assistant", "x")), cached=len(rendered(first)) + 10
    )
    assert told.miss == pb.CACHE_MISS_UNSPECIFIED
    assert told.repeated_token_count == 0


def test_an_answer_that_comes_back_changed_is_told_as_the_message_it_is() -> None:
    made = explainer()
    first = chat_of(("system", RULES), ("user", "Hello"))
    say(made, first, answer="<|ROLE_ASSISTANT|>\nx1")
    told = say(
        made, chat_of(("system", RULES), ("user", "Hello"), ("assistant", "x2")), cached=len(rendered(first)) + 20
    )
    assert (told.miss, told.place.message_index) == (pb.CACHE_MISS_DIFFERS, 2)
    made = explainer()
    say(made, first, answer="<|ROLE_TOOL|>")
    told = say(made, chat_of(("system", RULES), ("user", "Hello"), ("assistant", "x2")), cached=len(rendered(first)))
    assert told.place.message_index == 2


def test_a_change_is_told_with_its_place_and_what_it_cost() -> None:
    made = explainer()
    say(made, environment("/srv/a"))
    told = say(made, environment("/srv/b"), cached=rendered(environment("/srv/b")).index("b\n</env>"))
    assert told.miss == pb.CACHE_MISS_DIFFERS
    assert (told.place.message_index, told.place.role) == (0, pb.ROLE_SYSTEM)
    assert (told.place.excerpt, told.place.known_excerpt) == ("Directory: /srv/b", "Directory: /srv/a")
    assert told.repeated_token_count > len(RULES)
    assert told.repeated_seconds == pytest.approx(told.repeated_token_count / 100)


def test_state_that_was_dropped_is_called_so() -> None:
    made = explainer()
    chat = chat_of(("system", RULES), ("user", "Hello"))
    say(made, chat)
    told = say(made, chat, cached=100)
    assert told.miss == pb.CACHE_MISS_DROPPED
    assert told.repeated_token_count == len(rendered(chat)) - 1 - 100


def test_state_older_than_what_is_remembered_needs_no_explanation() -> None:
    assert say(explainer(), chat_of(("system", RULES)), cached=500).miss == pb.CACHE_MISS_UNSPECIFIED


def test_another_tenants_prompt_is_never_told() -> None:
    made = explainer()
    say(made, environment("/srv/secret"), key="one")
    told = say(made, environment("/srv/mine"), key="two")
    assert told.miss == pb.CACHE_MISS_UNKNOWN
    assert b"secret" not in told.SerializeToString()


def test_a_place_that_keeps_changing_is_logged_once_with_the_remedy() -> None:
    made = explainer(shows_content=True)
    with capture_logs() as logs:
        told = [say(made, environment(f"/srv/{name}")) for name in "abcd"]
    assert ["environment_in_user" in one.remedy for one in told] == [False, False, True, True]
    assert "[models.coder]" in told[2].remedy
    (warning,) = [entry for entry in logs if entry["event"] == "volatile_prompt_part"]
    assert warning["excerpt"] == "Directory: /srv/c"
    assert warning["log_level"] == "warning"


def test_without_an_environment_block_the_remedy_is_to_move_the_text() -> None:
    made = explainer(layout="environment_in_user")
    told = [say(made, chat_of(("system", f"Today is day {day}.\n{RULES}"), ("user", "Hi"))) for day in (1, 2, 3)]
    assert "last user message" in told[2].remedy


def test_another_question_behind_the_same_system_text_is_no_volatile_place() -> None:
    made = explainer()
    told = [say(made, chat_of(("system", RULES), ("user", question))) for question in ("What?", "Why?", "How?", "Who?")]
    assert not any(one.remedy for one in told)


def test_excerpts_reach_others_only_where_content_may_be_logged() -> None:
    for shows_content in (False, True):
        made = explainer(shows_content=shows_content)
        with capture_logs() as logs:
            answers = [say(made, environment(f"/srv/{name}")) for name in "abc"]
        assert answers[1].place.excerpt == "Directory: /srv/b"
        listed = made.last(2)
        assert [bool(one.cache.place.excerpt) for one in listed] == [shows_content] * 2
        assert ("/srv" in str(logs)) is shows_content
        assert not made.last(0)[-1].cache.HasField("place")


def test_what_was_computed_and_could_not_be_kept_is_counted_beside_the_difference() -> None:
    comparison = Comparison(0, 1000, Difference(1000, 1010, 1010, 500, 1), pb.PromptPlace(token_index=1000))
    usage = pb.Usage(prompt_token_count=2000, cached_token_count=600)
    told = explanation(comparison, usage, prefill_rate=0.0)
    assert (told.miss, told.repeated_token_count, told.repeated_seconds) == (pb.CACHE_MISS_DROPPED, 900, 0.0)


def test_a_comparison_that_breaks_does_not_break_the_answer() -> None:
    made = explainer()
    say(made, environment("/srv/a"))
    made.model = ModelText("coder", "template", lambda token: 1 // 0)  # type: ignore[arg-type, return-value]
    assert say(made, environment("/srv/b")).miss == pb.CACHE_MISS_UNKNOWN
