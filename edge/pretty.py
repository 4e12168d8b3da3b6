"""Renders log events for a person at a terminal. Pure."""

import unicodedata
from collections.abc import Iterator
from typing import Final

from rich.text import Text

from edge.log_events import Fields

_INDENT: Final = "    "
_ID_LENGTH: Final = 12  # enough to tell requests apart at a glance
_ROLE_STYLES: Final = {"system": "magenta", "user": "green", "assistant": "cyan", "tool": "yellow"}
_FIRST_SHOWN: Final = 2
_LAST_SHOWN: Final = 10


def render(fields: Fields) -> Text:
    """Renders one event as a block of lines."""
    match fields["event"]:
        case "chat_request":
            lines = _request(fields)
        case "chat_response":
            lines = _response(fields)
        case "chat_failed":
            lines = iter([_failure(fields)])
        case _:
            lines = iter([_single(fields)])
    return Text("\n").join(lines)


def printable(text: str) -> str:
    """Drops control characters: a prompt must not steer the terminal."""
    return "".join(char for char in text if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cf"))


def _short_id(fields: Fields) -> str:
    return str(fields["request_id"])[:_ID_LENGTH]


def _request(fields: Fields) -> Iterator[Text]:
    yield Text.assemble(("▶ ", "bold blue"), (_short_id(fields), "dim"), " request")
    settings = {
        "model": fields["model"] or "(default)",
        "stream": "yes" if fields["stream"] else "no",
        "messages": fields["message_count"],
        "max_tokens": fields["max_tokens"],
        "n": fields["n"] if fields["n"] > 1 else None,
        "session": fields["session_id"],
    }
    yield _line("", "   ".join(f"{name} {value}" for name, value in settings.items() if value))
    if fields["tools"]:
        names = ", ".join(fields["tools"])
        yield _marked("[Tool Request]", f"{names} (tool_choice {fields['tool_choice']})")
    yield from _messages(fields.get("messages", []))


def _messages(messages: list[Fields]) -> Iterator[Text]:
    hidden_count = len(messages) - _FIRST_SHOWN - _LAST_SHOWN
    for index, message in enumerate(messages):
        if hidden_count > 0 and index == _FIRST_SHOWN:
            yield Text(f"{_INDENT}… {hidden_count} earlier messages …", "dim")
        if hidden_count <= 0 or not _FIRST_SHOWN <= index < _FIRST_SHOWN + hidden_count:
            yield from _message(message)


def _message(message: Fields) -> Iterator[Text]:
    calls = message.get("tool_calls", [])
    if message["content"] or not calls:
        yield _line(message["role"], message["content"] or "")
    for call in calls:
        yield _line(message["role"], f"[Tool Call] {call['name']} {call['arguments'] or ''}")


def _response(fields: Fields) -> Iterator[Text]:
    place = f"{fields['model']} on {fields['worker_id']}" if fields["worker_id"] else fields["model"]
    yield Text.assemble(("◀ ", "bold green"), (_short_id(fields), "dim"), f" response from {printable(place)}")
    for choice in fields["choices"]:
        yield from _choice(choice)
    yield _line(
        "usage",
        f"prompt {fields['prompt_tokens']} ({fields['cached_tokens']} cached), "
        f"completion {fields['completion_tokens']}, total {fields['total_tokens']} tokens",
    )
    first = fields["first_token_seconds"]
    waited = "" if first is None else f"{first:.2f} s to the first token, "
    yield _line("time", f"{waited}{fields['seconds']:.2f} s in all")


def _choice(choice: Fields) -> Iterator[Text]:
    for name in ("reasoning", "content"):
        if choice.get(name):
            yield _line(name, choice[name])
    if choice["tool_calls"]:
        yield _line("tool calls", ", ".join(choice["tool_calls"]))
    yield _line("finish", choice["finish_reason"] or "")


def _failure(fields: Fields) -> Text:
    what = " ".join(str(fields[name]) for name in ("status", "code") if fields[name])
    return Text.assemble(
        ("✖ ", "bold red"), (_short_id(fields), "dim"), f" {printable(what)}: {printable(fields['message'])}"
    )


def _single(fields: Fields) -> Text:
    head = Text.assemble(("● ", "blue"), (_short_id(fields), "dim"), " ")
    match fields["event"]:
        case "tool_call":
            return Text.assemble(head, ("[Tool Call]", "bold yellow"), f" {printable(fields['name'])}")
        case "tool_call_complete":
            text = f" {fields['name']} {fields['arguments'] or ''}".rstrip()
            return Text.assemble(head, ("[Tool Call Complete]", "bold yellow"), printable(text))
        case "chunk":
            text = f"[{fields['index']}] {fields['kind']} {fields.get('text') or ''}".rstrip()
            return Text.assemble(head, (printable(text), "dim"))
        case _:
            return Text.assemble(head, f"the client has gone after {fields['seconds']:.2f} s")


def _line(label: str, text: str) -> Text:
    if not label:
        return Text(f"{_INDENT}{printable(text)}")
    return Text.assemble(_INDENT, (f"{label:<11}", _ROLE_STYLES.get(label, "dim")), printable(text).rstrip())


def _marked(marker: str, text: str) -> Text:
    return Text.assemble(_INDENT, (marker, "bold yellow"), f" {printable(text)}")
