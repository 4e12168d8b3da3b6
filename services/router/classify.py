"""What kind of request a request is, from who asks and the shape of what is asked."""

from dataclasses import dataclass
from typing import Final

from localcode.inference.v1 import inference_pb2 as pb

_CLASS_PREFIX: Final = "REQUEST_CLASS_"


@dataclass(frozen=True)
class ClassRules:
    """The texts that tell kinds of requests apart."""

    title_prefixes: tuple[str, ...]
    compaction_prefixes: tuple[str, ...]
    fim_tokens: tuple[str, ...]


def classify(request: pb.GenerateRequest, rules: ClassRules) -> "pb.RequestClass.ValueType":
    """Names the class of a request; one that already has a class keeps it."""
    context = request.context
    if context.request_class != pb.REQUEST_CLASS_UNSPECIFIED:
        return context.request_class
    if context.parent_session_id:
        return pb.REQUEST_CLASS_SUBAGENT
    if request.HasField("chat"):
        return _classify_chat(request.chat, rules)
    is_fim = any(token in request.text for token in rules.fim_tokens)
    return pb.REQUEST_CLASS_FIM if is_fim else pb.REQUEST_CLASS_CHAT


def class_name(request_class: "pb.RequestClass.ValueType") -> str:
    """The class in lower case, such as `main`."""
    return pb.RequestClass.Name(request_class).removeprefix(_CLASS_PREFIX).lower()


def _classify_chat(chat: pb.ChatPrompt, rules: ClassRules) -> "pb.RequestClass.ValueType":
    if _has_image(chat):
        return pb.REQUEST_CLASS_VISION
    if chat.tools:  # agents other than OpenCode also send tools with their loop, and none with their titles
        return pb.REQUEST_CLASS_MAIN
    system = _system_text(chat)
    if system.startswith(rules.title_prefixes):
        return pb.REQUEST_CLASS_TITLE
    if system.startswith(rules.compaction_prefixes):
        return pb.REQUEST_CLASS_COMPACTION
    return pb.REQUEST_CLASS_CHAT


def _has_image(chat: pb.ChatPrompt) -> bool:
    return any(part.HasField("image") for message in chat.messages for part in message.content)


def _system_text(chat: pb.ChatPrompt) -> str:
    if not chat.messages or chat.messages[0].role != pb.ROLE_SYSTEM:
        return ""
    return "".join(part.text for part in chat.messages[0].content).lstrip()
