from collections.abc import Sequence

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import InvalidRequest
from services.worker.system_prefix import SystemPrefix


def message(role: "pb.Role.ValueType", text: str) -> pb.Message:
    return pb.Message(role=role, content=[pb.ContentPart(text=text)])


def chat(system: str, question: str, *, tool: str = "") -> pb.ChatPrompt:
    messages = [message(pb.ROLE_SYSTEM, system)] if system else []
    tools = [pb.Tool(name=tool)] if tool else []
    return pb.ChatPrompt(messages=[*messages, message(pb.ROLE_USER, question)], tools=tools)


class Renderer:
    """Its tokens are the letters of a plain template."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, chat: pb.ChatPrompt) -> Sequence[int]:
        self.calls += 1
        tools = "".join(tool.name for tool in chat.tools)
        return [ord(letter) for letter in tools + "|".join(one.content[0].text for one in chat.messages)]


def test_only_tools_and_system_text_count() -> None:
    render = Renderer()
    prefix = SystemPrefix(render)
    asked = chat("Be brief.", "Why?", tool="read")
    assert prefix.token_count(asked, render(asked)) == len("readBe brief.|")


def test_the_same_system_text_is_rendered_once() -> None:
    render = Renderer()
    prefix = SystemPrefix(render)
    first, second = chat("Be brief.", "Why?"), chat("Be brief.", "What?")
    counts = [prefix.token_count(one, render(one)) for one in (first, second)]
    assert counts[0] == counts[1]
    assert render.calls == 3
    assert prefix.token_count(chat("Be long.", "Why?"), render(first)) == len("Be ")


def test_a_conversation_without_either_has_none() -> None:
    render = Renderer()
    assert SystemPrefix(render).token_count(chat("", "Why?"), [1, 2]) == 0
    assert SystemPrefix(render).token_count(pb.ChatPrompt(), [1, 2]) == 0
    assert render.calls == 0


def test_a_template_that_refuses_so_short_a_conversation_shares_nothing() -> None:
    def refuse(chat: pb.ChatPrompt) -> Sequence[int]:
        raise InvalidRequest("No.", param="messages")

    assert SystemPrefix(refuse).token_count(chat("Be brief.", "Why?"), [1, 2]) == 0
