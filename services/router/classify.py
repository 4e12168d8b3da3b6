"""What kind of request a request is, from who asks and the shape of what is asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Final

from localcode.inference.v1 import inference_pb2 as pb

_CLASS_PREFIX: Final = "REQUEST_CLASS_"


@dataclass(frozen=True)
class ClassRule:
    """Requests of one kind: all conditions that are set must hold. Texts are looked for in lower case."""

    name: str
    request_class: "pb.RequestClass.ValueType"
    user_agent: str = ""
    """What the client's name contains."""
    system_prefix: str = ""
    """How the system prompt begins."""
    system_contains: str = ""
    last_user_contains: str = ""
    max_message_count: int = 0
    """Most messages, system messages included; 0 means any number."""
    has_tools: bool | None = None

    def matches(self, shape: "Shape") -> bool:
        """Whether a request is of this kind."""
        return (
            self.user_agent.lower() in shape.user_agent
            and shape.system.startswith(self.system_prefix.lower())
            and self.system_contains.lower() in shape.system
            and self.last_user_contains.lower() in shape.last_user
            and (not self.max_message_count or shape.message_count <= self.max_message_count)
            and self.has_tools in (None, shape.has_tools)
        )


@dataclass(frozen=True)
class Shape:
    """What rules look at, texts in lower case."""

    user_agent: str
    system: str
    last_user: str
    message_count: int
    has_tools: bool


@dataclass(frozen=True)
class Classified:
    """The kind of a request, and the rule that said so."""

    request_class: "pb.RequestClass.ValueType"
    rule: str


@dataclass(frozen=True)
class ClassRules:
    """The rules, tried in their order, and the texts that tell kinds of requests apart."""

    rules: Sequence[ClassRule]
    fim_tokens: tuple[str, ...]


def classify(request: pb.GenerateRequest, rules: ClassRules) -> Classified:
    """Names the class of a request and the rule that decided; one that already has a class keeps it."""
    context = request.context
    if context.request_class != pb.REQUEST_CLASS_UNSPECIFIED:
        return Classified(context.request_class, "given")
    if not request.HasField("chat"):
        token = next((token for token in rules.fim_tokens if token in request.text), "")
        return (
            Classified(pb.REQUEST_CLASS_FIM, f"text holds {token}") if token else
            Classified(pb.REQUEST_CLASS_CHAT, "text")
        )  # fmt: skip
    shape = _shape(request)
    for rule in rules.rules:  # before the parent: a spawned agent's history is summarised, too
        if rule.matches(shape):
            return Classified(rule.request_class, f"rule {rule.name}")
    if context.parent_session_id:
        return Classified(pb.REQUEST_CLASS_SUBAGENT, "parent session")
    if has_image(request.chat):
        return Classified(pb.REQUEST_CLASS_VISION, "images")
    if shape.has_tools:  # agents send tools with their loop, and none with their titles
        return Classified(pb.REQUEST_CLASS_MAIN, "tools")
    return Classified(pb.REQUEST_CLASS_CHAT, "no tools")


def class_name(request_class: "pb.RequestClass.ValueType") -> str:
    """The class in lower case, such as `main`."""
    return pb.RequestClass.Name(request_class).removeprefix(_CLASS_PREFIX).lower()


def class_of(name: str) -> "pb.RequestClass.ValueType":
    """The class of a name in lower case."""
    return pb.RequestClass.Value(_CLASS_PREFIX + name.upper())


def has_image(chat: pb.ChatPrompt) -> bool:
    """Whether any message holds a picture."""
    return any(part.HasField("image") for message in chat.messages for part in message.content)


def may_call(chat: pb.ChatPrompt) -> bool:
    """Whether tools are offered that the answer may call."""
    return bool(chat.tools) and chat.tool_choice.mode != pb.TOOL_CHOICE_MODE_NONE


def _shape(request: pb.GenerateRequest) -> Shape:
    messages = request.chat.messages
    system = takewhile(lambda message: message.role == pb.ROLE_SYSTEM, messages)
    last_user = next((message for message in reversed(messages) if message.role == pb.ROLE_USER), pb.Message())
    return Shape(
        user_agent=request.context.user_agent.lower(),
        system="".join(map(_text, system)).lstrip().lower(),
        last_user=_text(last_user).lower(),
        message_count=len(messages),
        has_tools=bool(request.chat.tools),
    )


def _text(message: pb.Message) -> str:
    return "".join(part.text for part in message.content)
