"""Marks of calls and reasoning that are control tokens reach the parser; other control tokens stay hidden."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.answer import Answer
from services.worker.llama import LlamaContext, LlamaModel, Row, initialise
from services.worker.prompts import Preparer
from services.worker.settings import WorkerSettings
from tests.fakes.chat_template import HERMES_TEMPLATE
from tests.fakes.scripted_model import Script, write_scripted_model

pytestmark = pytest.mark.integration
TOOLS = [pb.Tool(name="get_weather", parameters_json='{"type": "object", "properties": {"city": {"type": "string"}}}')]
ARGUMENTS = '{"city": "Lisbon"}'
KIMI = ("<|tool_calls_section_begin|>", "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>",
        "<|tool_calls_section_end|>")  # fmt: skip
HARMONY = ("<|channel|>", "<|constrain|>", "<|message|>")
MISTRAL = ("[THINK]", "[/THINK]", "[TOOL_CALLS]", "[ARGS]")
ANSWERS = {
    "kimi": (KIMI, "{}{}functions.get_weather:0{}" + ARGUMENTS.replace("{", "{{").replace("}", "}}") + "{}{}"),
    "harmony": (
        HARMONY,
        "{}commentary to=functions.get_weather {}json{}" + ARGUMENTS.replace("{", "{{").replace("}", "}}"),
    ),
    "mistral-named": (MISTRAL, "{}Rain or sun?{}{}get_weather{}" + ARGUMENTS.replace("{", "{{").replace("}", "}}")),
}


class Worker:
    """A model, what prepares its requests, and greedy decoding."""

    def __init__(self, path: Path) -> None:
        initialise()
        self.model = LlamaModel(path, gpu_layers=0, mmap=True, mlock=False)
        self.context = LlamaContext(
            self.model, cells=1024, sequences=1, batch_tokens=512, threads=1, type_k="f16", type_v="f16"
        )
        settings = WorkerSettings(model_path=path, name="scripted", context=1024)
        self.preparer = Preparer(self.model, self.model.chat_template or "", settings, context_length=1024)

    def answer(self, *tools: pb.Tool) -> list[pb.Delta]:
        message = pb.Message(role=pb.ROLE_USER, content=[pb.ContentPart(text="Hi")])
        prepared = self.preparer.prepare(pb.GenerateRequest(chat=pb.ChatPrompt(messages=[message], tools=tools)))
        answer = Answer(tools=tools, reasoning=prepared.reasoning, call_format=self.preparer.call_format)
        deltas, tokens, position = list[pb.Delta](), prepared.tokens, 0
        while True:
            ((output,),) = self.context.decode([Row(0, position, tokens, output_count=1)])
            token = int(self.context.logits(output).argmax())
            if token in self.model.end_tokens:
                return deltas + answer.finish(ended_by_model=True)
            position, tokens = position + len(tokens), [token]
            deltas += answer.feed(token, self.model.piece(token))

    def close(self) -> None:
        self.context.close()
        self.model.close()


@pytest.fixture(params=list(ANSWERS))
def worker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Worker]:
    marks, answer = ANSWERS[request.param]
    template = HERMES_TEMPLATE.replace("<tool_call>", "<call>") + "{# " + " ".join(marks) + " #}"
    script = Script(answer.format(*marks), control_texts=marks)
    worker = Worker(write_scripted_model(tmp_path / "model.gguf", script, template=template))
    assert worker.preparer.call_format.name == request.param
    yield worker
    worker.close()


def test_a_call_written_with_control_tokens_arrives(worker: Worker) -> None:
    deltas = worker.answer(*TOOLS)
    calls = [delta.tool_call for delta in deltas if delta.WhichOneof("piece") == "tool_call"]
    assert "".join(call.name for call in calls) == "get_weather"
    assert json.loads("".join(call.arguments for call in calls)) == json.loads(ARGUMENTS)
    assert "".join(delta.content for delta in deltas) == ""
    is_magistral = worker.preparer.call_format.name == "mistral-named"
    assert "".join(delta.reasoning for delta in deltas) == ("Rain or sun?" if is_magistral else "")


def test_without_tools_such_a_call_is_text_not_silence(worker: Worker) -> None:
    content = "".join(delta.content for delta in worker.answer())
    assert "get_weather" in content
    assert ARGUMENTS in content


def test_other_control_tokens_stay_hidden(worker: Worker) -> None:
    (token,) = worker.model.tokenize("<|im_start|>", add_special=False, parse_special=True)
    assert worker.model.piece(token) == b""
