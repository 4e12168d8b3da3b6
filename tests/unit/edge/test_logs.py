import io
import json
import logging
import logging.handlers
from pathlib import Path
from typing import Any

import pytest
import structlog
from rich.console import Console

from edge.answer import Answer
from edge.errors import api_error
from edge.log_events import PREVIEW_LENGTH, failure_event, shown
from edge.logs import ConversationLog, UnknownFields, keep_conversations_off_the_terminal
from edge.metrics import EdgeMetrics
from edge.pretty import printable, render
from edge.turn import Turn
from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import NoWorker
from services.shared.settings import LogSettings
from tests.fakes.inference import admitted, content, finish, reasoning, tool_call

SNAPSHOT = Path(__file__).parent / "snapshots" / "pretty.txt"
SECRET = "the launch code is 0000"


def a_request(*, user_text: str = SECRET) -> pb.GenerateRequest:
    call = pb.ToolCall(id="c1", name="read", arguments_json='{"filePath":"a.py"}')
    text = pb.ContentPart(text=user_text)
    image = pb.ContentPart(image=pb.Image(data=b"1234", media_type="image/png"))
    chat = pb.ChatPrompt(
        messages=[
            pb.Message(role=pb.ROLE_SYSTEM, content=[pb.ContentPart(text="You are a coding agent.\n" * 20)]),
            pb.Message(role=pb.ROLE_USER, content=[text, image]),
            pb.Message(role=pb.ROLE_ASSISTANT, tool_calls=[call]),
            pb.Message(role=pb.ROLE_TOOL, tool_call_id="c1", content=[pb.ContentPart(text="def main():\n    pass")]),
        ],
        tools=[pb.Tool(name="read"), pb.Tool(name="write")],
    )
    context = pb.RequestContext(session_id="ses_1")
    return pb.GenerateRequest(request_id="req_1", model="coder", chat=chat, max_tokens=8192, context=context)


ANSWER: list[pb.GenerateResponse] = [
    admitted(),
    reasoning("Let me see."),
    content("I read "),
    content("the file."),
    tool_call(0, id="c2", name="read"),
    tool_call(0, '{"filePath":'),
    tool_call(0, '"b.py"}'),
    tool_call(1, '{"filePath":"c.py"}', id="c3", name="write"),
    finish(pb.FINISH_REASON_TOOL_CALLS),
]


def play(
    log: ConversationLog, *, request: pb.GenerateRequest | None = None, metrics: EdgeMetrics | None = None
) -> None:
    answer = Answer("chatcmpl-1", created=1)
    with Turn(request or a_request(), answer, log, metrics or EdgeMetrics(), is_stream=True) as turn:
        for event in ANSWER:
            list(answer.add(0, event))
            turn.saw([(0, event)])


def pretty_text(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> str:
    monkeypatch.setattr("edge.turn.monotonic", iter([step / 4 for step in range(1000)]).__next__)
    file = io.StringIO()
    console = Console(file=file, width=100, color_system=None)
    play(ConversationLog(LogSettings(format="pretty", **settings), console=console))
    return file.getvalue()


def json_events(**settings: Any) -> list[dict[str, Any]]:
    with structlog.testing.capture_logs() as events:
        play(ConversationLog(LogSettings(format="json", **settings)))
    return list(events)


def test_the_pretty_form_is_as_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pretty_text(monkeypatch) == SNAPSHOT.read_text(encoding="utf-8")


def test_the_three_markers_come_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    text = pretty_text(monkeypatch)
    lines = [line.split("]")[0].split("[")[1] for line in text.splitlines() if "● " in line or "[Tool Request" in line]
    assert lines == ["Tool Request", "Tool Call", "Tool Call Complete", "Tool Call", "Tool Call Complete"]


def test_chunks_are_shown_at_debug_level_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "content the file." not in pretty_text(monkeypatch)
    assert "[0] content the file." in pretty_text(monkeypatch, level="debug")


def test_warnings_only_means_no_conversations(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pretty_text(monkeypatch, level="warning") == ""


def test_no_content_means_none(monkeypatch: pytest.MonkeyPatch) -> None:
    text = pretty_text(monkeypatch, content="none", level="debug")
    for piece in (SECRET, "coding agent", "a.py", "b.py", "the file", "Let me see"):
        assert piece not in text
    assert "messages 4" in text


def test_full_content_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pretty_text(monkeypatch, content="full").count("You are a coding agent.") == 20


def test_json_has_counts_and_no_content_by_default() -> None:
    events = json_events(level="debug")
    assert SECRET not in json.dumps(events)
    assert "b.py" not in json.dumps(events)
    request, response = events[0], events[-1]
    assert (request["event"], request["roles"], request["tools"]) == (
        "chat_request",
        {"system": 1, "user": 1, "assistant": 1, "tool": 1},
        ["read", "write"],
    )
    assert (response["event"], response["cached_tokens"], response["total_tokens"]) == ("chat_response", 8, 13)
    assert response["choices"] == [{"finish_reason": "tool_calls", "tool_calls": ["read", "write"]}]


def test_json_has_previews_if_asked() -> None:
    request = json_events(content="preview")[0]
    assert request["messages"][1]["content"].startswith(SECRET)


def test_json_tells_when_calls_start_and_end() -> None:
    calls = [(event["event"], event["name"]) for event in json_events() if event["event"].startswith("tool_call")]
    assert calls == [
        ("tool_call", "read"),
        ("tool_call_complete", "read"),
        ("tool_call", "write"),
        ("tool_call_complete", "write"),
    ]


def test_previews_are_one_line_of_150_characters() -> None:
    preview = shown("a\n\tb " * 1000, "preview")
    assert preview is not None
    assert len(preview) == PREVIEW_LENGTH
    assert preview.endswith("…")
    assert "\n" not in preview


def test_a_prompt_can_not_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\x07\u202ec") == "a[2Jbc"


def test_a_long_history_is_shown_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    request = a_request()
    request.chat.messages.extend(
        pb.Message(role=pb.ROLE_USER, content=[pb.ContentPart(text=f"turn {number}")]) for number in range(30)
    )
    file = io.StringIO()
    log = ConversationLog(LogSettings(format="pretty"), console=Console(file=file, width=100, color_system=None))
    play(log, request=request)
    assert "… 22 earlier messages …" in file.getvalue()
    assert "turn 29" in file.getvalue()
    assert "turn 5" not in file.getvalue()


def test_a_failure_names_status_and_reason() -> None:
    assert render(failure_event("req_1", api_error(NoWorker("no worker lives")))).plain == (
        "✖ req_1 503 no_worker: no worker lives"
    )


def test_a_failed_answer_is_logged_once_and_not_as_a_disconnect() -> None:
    metrics = EdgeMetrics()
    with structlog.testing.capture_logs() as events:
        log = ConversationLog(LogSettings(format="json"))
        with Turn(a_request(), Answer("c", created=1), log, metrics, is_stream=True) as turn:
            turn.failed(NoWorker("gone"))
    assert [event["event"] for event in events] == ["chat_request", "chat_failed"]
    assert metrics.registry.get_sample_value("localcode_edge_failed_answers_total", {"code": "no_worker"}) == 1
    assert metrics.registry.get_sample_value("localcode_edge_client_disconnects_total") == 0


def test_an_unfinished_answer_is_a_disconnect() -> None:
    metrics = EdgeMetrics()
    with structlog.testing.capture_logs() as events:
        log = ConversationLog(LogSettings(format="json"))
        with Turn(a_request(), Answer("c", created=1), log, metrics, is_stream=True):
            assert metrics.registry.get_sample_value("localcode_edge_open_streams") == 1
    assert [event["event"] for event in events] == ["chat_request", "client_disconnected"]
    assert metrics.registry.get_sample_value("localcode_edge_client_disconnects_total") == 1
    assert metrics.registry.get_sample_value("localcode_edge_open_streams") == 0


def test_tokens_and_waits_are_counted() -> None:
    metrics = EdgeMetrics()
    play(ConversationLog(LogSettings(format="json", level="error")), metrics=metrics)
    labels = {"model": "coder"}
    value = metrics.registry.get_sample_value
    assert value("localcode_edge_tokens_total", {**labels, "kind": "cached"}) == 8
    assert value("localcode_edge_time_to_first_token_seconds_count", labels) == 1
    assert value("localcode_edge_inter_token_seconds_count", labels) == 6


def test_an_unknown_field_is_noted_once() -> None:
    fields = UnknownFields()
    with structlog.testing.capture_logs() as events:
        fields.note(["a", "b"])
        fields.note(["b", "c"])
    assert [event["field"] for event in events] == ["a", "b", "c"]


def test_a_flood_of_unknown_fields_is_bounded() -> None:
    with structlog.testing.capture_logs() as events:
        UnknownFields().note(str(number) for number in range(10_000))
    assert len(events) == 256


def test_conversations_go_to_files_only_where_a_person_reads(tmp_path: Path) -> None:
    settings = LogSettings(format="pretty", directory=tmp_path)
    root, logger = logging.getLogger(), logging.getLogger("edge.conversations")
    handler = logging.handlers.RotatingFileHandler(tmp_path / "edge.log")
    root.addHandler(handler)
    try:
        keep_conversations_off_the_terminal(settings)
        assert logger.handlers == [handler]
        assert not logger.propagate
    finally:
        root.removeHandler(handler)
        logger.handlers.clear()
        logger.propagate = True
        handler.close()
