"""Runs parsers of tool calls over answers in pieces."""

import json
from dataclasses import dataclass, field
from typing import Any

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.tool_calls import GENERIC, CallArguments, CallEnd, CallStart, Event, Format, Text

PARAMETERS = '{"type": "object", "properties": {"filePath": {"type": "string"}}}'
TOOLS = [
    pb.Tool(name=name, parameters_json=PARAMETERS) for name in ("bash", "read", "web_search", "todowrite", "write")
]
READ = '{"name": "read", "arguments": {"filePath": "a.py"}}'
BASH = '{"name": "bash", "arguments": {"command": "ls"}}'
READ_CALL = ("read", {"filePath": "a.py"})
BASH_CALL = ("bash", {"command": "ls"})


@dataclass
class Result:
    text: str = ""
    names: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    order: list[str] = field(default_factory=list)

    @property
    def calls(self) -> list[tuple[str, Any]]:
        assert self.ended == list(range(len(self.names)))
        return [(name, json.loads(text)) for name, text in zip(self.names, self.arguments, strict=True)]

    def add(self, event: Event) -> None:
        match event:
            case Text(text):
                assert text
                self.text += text
                self.order.append("text")
            case CallStart(index, name):
                assert index == len(self.names)
                self.names.append(name)
                self.arguments.append("")
                self.order.append(name)
            case CallArguments(index, text):
                assert index == len(self.names) - 1
                self.arguments[-1] += text
            case CallEnd(index):
                self.ended.append(index)
        if self.order[-2:] == ["text", "text"]:
            self.order.pop()


def parse(
    text: str, *, size: int | None = None, ended_by_model: bool = True, tools: list[pb.Tool] = TOOLS,
    call_format: Format = GENERIC,
) -> Result:  # fmt: skip
    parser, result = call_format.parser(tools), Result()
    step = size or max(len(text), 1)
    for start in range(0, len(text), step):
        for event in parser.feed(text[start : start + step]):
            result.add(event)
    for event in parser.finish(ended_by_model=ended_by_model):
        result.add(event)
    return result
