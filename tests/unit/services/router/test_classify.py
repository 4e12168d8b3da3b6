import pytest

from localcode.inference.v1 import inference_pb2 as pb
from services.router.classify import class_name, classify
from services.router.settings import RouterSettings

RULES = RouterSettings().class_rules
AGENT = "You are opencode, a tool that helps with programming."
TITLE = "You are a title generator. You output ONLY a title."
COMPACTION = "You are a context summarization agent. Summarise what follows."
SEARCH = "You are a file search specialist."


def text(role: pb.Role, *parts: str) -> pb.Message:
    return pb.Message(role=role, content=[pb.ContentPart(text=part) for part in parts])


def chat_request(*messages: pb.Message, tools: int = 0, parent: str = "") -> pb.GenerateRequest:
    offered = [pb.Tool(name=f"tool{number}") for number in range(tools)]
    return pb.GenerateRequest(
        chat=pb.ChatPrompt(messages=messages, tools=offered),
        context=pb.RequestContext(session_id="ses_a", parent_session_id=parent),
    )


def picture() -> pb.ContentPart:
    return pb.ContentPart(image=pb.Image(data=b"\x89PNG", media_type="image/png"))


CONVERSATION = (
    text(pb.ROLE_SYSTEM, AGENT),
    text(pb.ROLE_USER, '"Two tests fail."'),
    pb.Message(role=pb.ROLE_ASSISTANT, tool_calls=[pb.ToolCall(id="c1", name="bash", arguments_json="{}")]),
    pb.Message(role=pb.ROLE_TOOL, tool_call_id="c1", content=[pb.ContentPart(text="F.....")]),
)
CASES = {
    "a session's title": (
        chat_request(
            text(pb.ROLE_SYSTEM, TITLE),
            text(pb.ROLE_USER, "Generate a title for this conversation:\n"),
            text(pb.ROLE_USER, '"Two tests fail."'),
        ),
        "title",
    ),
    "the first turn": (chat_request(*CONVERSATION[:2], tools=10), "main"),
    "a later turn": (chat_request(*CONVERSATION, tools=10), "main"),
    "a turn after a summary": (
        chat_request(
            text(pb.ROLE_SYSTEM, AGENT),
            text(pb.ROLE_USER, "What did we do so far?"),
            text(pb.ROLE_ASSISTANT, "We repaired a filter."),
            text(pb.ROLE_USER, "Continue if you have next steps, or stop and ask"),
            tools=10,
        ),
        "main",
    ),
    "a search agent": (
        chat_request(text(pb.ROLE_SYSTEM, SEARCH), text(pb.ROLE_USER, "Find it."), tools=5, parent="ses_0"),
        "subagent",
    ),
    "a general agent with the main prompt": (chat_request(*CONVERSATION, tools=8, parent="ses_0"), "subagent"),
    "a summary": (
        chat_request(text(pb.ROLE_SYSTEM, COMPACTION), text(pb.ROLE_USER, "Here is the conversation so far:\n\n...")),
        "compaction",
    ),
    "a title whose system prompt comes in parts": (
        chat_request(text(pb.ROLE_SYSTEM, "You are a title ", "generator."), text(pb.ROLE_USER, "Hi")),
        "title",
    ),
    "a main loop that quotes the title prompt": (
        chat_request(text(pb.ROLE_SYSTEM, AGENT), text(pb.ROLE_USER, TITLE), tools=10),
        "main",
    ),
    "a chat that quotes the title prompt": (chat_request(text(pb.ROLE_USER, TITLE)), "chat"),
    "a plain chat": (chat_request(text(pb.ROLE_USER, "Hi")), "chat"),
    "an agent that sends blocks of system text and many tools": (
        chat_request(
            text(pb.ROLE_SYSTEM, "You are Claude Code.", "git status: clean"),
            text(pb.ROLE_USER, "Hi"),
            text(pb.ROLE_SYSTEM, "A reminder."),
            tools=26,
        ),
        "main",
    ),
    "another agent's small request without tools": (
        chat_request(text(pb.ROLE_SYSTEM, "Analyse if this message begins a new topic."), text(pb.ROLE_USER, "Hi")),
        "chat",
    ),
    "an agent that speaks as developer": (
        chat_request(text(pb.ROLE_SYSTEM, "You are Codex."), text(pb.ROLE_SYSTEM, "env"), tools=9),
        "main",
    ),
    "a picture": (
        chat_request(pb.Message(role=pb.ROLE_USER, content=[pb.ContentPart(text="What is this?"), picture()])),
        "vision",
    ),
    "a picture among tools": (
        chat_request(pb.Message(role=pb.ROLE_USER, content=[picture()]), tools=10),
        "vision",
    ),
    "a subagent's picture": (
        chat_request(pb.Message(role=pb.ROLE_USER, content=[picture()]), tools=5, parent="ses_0"),
        "subagent",
    ),
    "code around a cursor": (
        pb.GenerateRequest(text="<|fim_prefix|>def f(<|fim_suffix|>): pass<|fim_middle|>"),
        "fim",
    ),
    "plain text": (pb.GenerateRequest(text="Once upon a time"), "chat"),
    "no messages": (chat_request(), "chat"),
}


@pytest.mark.parametrize(("request_", "expected"), CASES.values(), ids=CASES)
def test_a_request_is_recognised(request_: pb.GenerateRequest, expected: str) -> None:
    assert class_name(classify(request_, RULES).request_class) == expected


def test_a_class_that_is_given_stays() -> None:
    request = chat_request(*CONVERSATION, tools=10)
    request.context.request_class = pb.REQUEST_CLASS_COMPACTION
    assert classify(request, RULES).request_class == pb.REQUEST_CLASS_COMPACTION


def test_the_rules_can_be_configured() -> None:
    rules = RouterSettings(title_prefixes=("Name this:",)).class_rules
    request = chat_request(text(pb.ROLE_SYSTEM, "Name this: ..."), text(pb.ROLE_USER, "Hi"))
    assert classify(request, rules).request_class == pb.REQUEST_CLASS_TITLE


def test_the_rule_that_decided_is_named() -> None:
    assert classify(chat_request(text(pb.ROLE_SYSTEM, TITLE)), RULES).rule == "rule title"
    assert classify(chat_request(text(pb.ROLE_SYSTEM, AGENT), tools=3), RULES).rule == "tools"
    assert classify(chat_request(parent="ses_0"), RULES).rule == "parent session"


def of_client(user_agent: str, *messages: pb.Message, tools: int = 0) -> pb.GenerateRequest:
    request = chat_request(*messages, tools=tools)
    request.context.user_agent = user_agent
    return request


OTHER_CLIENTS = {
    "claude code's loop": (
        of_client("claude-cli/2.1.197 (external, cli)", text(pb.ROLE_SYSTEM, "You are Claude Code."), tools=26), "main"
    ),
    "claude code's title": (
        of_client(
            "claude-cli/2.1.197", text(pb.ROLE_SYSTEM, "Write a short Title."), text(pb.ROLE_USER, "Two tests fail")
        ),
        "title",
    ),
    "claude code's compaction": (
        of_client(
            "claude-cli/2.1.197", text(pb.ROLE_SYSTEM, "You are helpful."),
            text(pb.ROLE_USER, "Your task is to create a detailed summary of the conversation so far."), tools=26,
        ),
        "compaction",
    ),
    "codex's loop": (of_client("codex_cli_rs/0.169.0", text(pb.ROLE_SYSTEM, "You are Codex."), tools=9), "main"),
    "qwen code's loop": (of_client("QwenCode/0.15.10", text(pb.ROLE_SYSTEM, "You are Qwen Code."), tools=15), "main"),
    "qwen code's compaction": (
        of_client("QwenCode/0.15.10", text(pb.ROLE_SYSTEM, "Answer with one <state_snapshot>.")), "compaction"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_CLIENTS)
def test_other_agents_are_known(name: str) -> None:
    request_, expected = OTHER_CLIENTS[name]
    assert class_name(classify(request_, RULES).request_class) == expected


def test_rules_of_ones_own_come_first_and_all_their_conditions_hold() -> None:
    own = {"name": "nightly", "request_class": "title", "user_agent": "cron", "has_tools": True}
    rules = RouterSettings(class_rules_first=[own]).class_rules  # type: ignore[list-item]
    assert classify(of_client("Cron/1", tools=1), rules).rule == "rule nightly"
    assert classify(of_client("Cron/1"), rules).rule == "no tools"
    assert classify(of_client("other", tools=1), rules).rule == "tools"
