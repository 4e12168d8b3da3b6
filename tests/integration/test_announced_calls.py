"""An answer that only says which tool it will use goes on with that call."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.speculation import SpeculationOptions
from tests.fakes.scripted_model import Branch, Script, write_scripted_model
from tests.fakes.worker_engine import Running, chat, running_worker

pytestmark = pytest.mark.integration

ANNOUNCEMENT = "To find out, I will use the `get_weather` tool."
LONG_ANNOUNCEMENT = (
    "I will use the `get_weather` tool.\nIt tells what it finds in a few lines, which you can read then."
)
SCRIPT = Script(
    default="Hello!",
    branches=(
        Branch("Is it raining", LONG_ANNOUNCEMENT),
        Branch("How is the weather", ANNOUNCEMENT),
        Branch("24 degrees", "Lisbon is warm; I use the get_news tool."),
    ),
)
CITIES = ["Lisbon", "Porto"]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": CITIES}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = (
    pb.Tool(name="get_news", parameters_json=json.dumps(SCHEMA)),
    pb.Tool(name="get_weather", parameters_json=json.dumps(SCHEMA)),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scripted_model(tmp_path_factory.mktemp("models") / "m.gguf", SCRIPT)


@pytest.fixture(scope="module")
def worker(model: Path) -> Iterator[Running]:
    with running_worker(model, context=4096) as running:
        yield running


@pytest.mark.parametrize("speculation", ["none", "lookup"])
def test_the_announced_tool_is_called_with_arguments_of_its_schema(worker: Running, speculation: str) -> None:
    said = worker.say(chat("How is the weather?", tools=TOOLS), SpeculationOptions(speculation, 8))  # type: ignore[arg-type]
    [(name, arguments)] = said.calls
    assert (name, json.loads(arguments)["city"] in CITIES) == ("get_weather", True)
    assert said.text.startswith(ANNOUNCEMENT)
    assert said.finish.reason == pb.FINISH_REASON_TOOL_CALLS
    streamed = [token for delta in said.deltas for token in delta.token_ids]
    assert streamed == said.tokens
    assert said.finish.usage.completion_token_count == len(said.tokens)


def test_it_is_called_behind_the_line_that_announces_it(worker: Running) -> None:
    said = worker.say(chat("Is it raining?", tools=TOOLS), SpeculationOptions("lookup", 8))
    assert [name for name, _ in said.calls] == ["get_weather"]
    before = "".join(
        delta.content for delta in itertools.takewhile(lambda delta: not delta.HasField("tool_call"), said.deltas)
    )
    assert before.startswith(LONG_ANNOUNCEMENT.partition("\n")[0])
    assert "which you can read then" not in before


def test_an_answer_to_results_of_tools_is_left_as_it_is(worker: Running) -> None:
    request = chat("How is the weather?", tools=TOOLS)
    call = pb.ToolCall(id="c", name="get_weather", arguments_json='{"city": "Lisbon"}')
    request.chat.messages.append(pb.Message(role=pb.ROLE_ASSISTANT, tool_calls=[call]))
    result = [pb.ContentPart(text="24 degrees")]
    request.chat.messages.append(pb.Message(role=pb.ROLE_TOOL, tool_call_id="c", content=result))
    assert worker.say(request).calls == []


def test_no_call_is_made_where_none_is_allowed_or_no_room_is_left_for_it(worker: Running) -> None:
    refused = chat("How is the weather?", tools=TOOLS)
    refused.chat.tool_choice.mode = pb.TOOL_CHOICE_MODE_NONE
    plain = worker.say(refused)
    assert (plain.calls, plain.text) == ([], ANNOUNCEMENT)
    short = worker.say(chat("How is the weather?", tools=TOOLS, max_tokens=len(plain.tokens) + 10))
    assert (short.calls, short.finish.reason) == ([], pb.FINISH_REASON_STOP)


def test_the_setting_turns_it_off(model: Path) -> None:
    with running_worker(model, context=4096, announced_calls=False) as worker:
        said = worker.say(chat("How is the weather?", tools=TOOLS))
    assert (said.calls, said.text) == ([], ANNOUNCEMENT)
