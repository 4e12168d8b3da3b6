"""What the scripted models say: one script for tests of the API, one for OpenCode's agent loop."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.fakes.scripted_model import Branch, Script

GREETING: Final = "Hello! What shall we build today?"
STORY: Final = (
    "A lighthouse keeper once found a paper boat on the stairs. It carried a drawing of the sea and nothing else. He "
    "put a lamp beside it; next morning there were two boats, and by winter the whole tower smelled of ink and salt."
)
JSON_ANSWER: Final = '{"name": "Grace", "languages": ["COBOL", "English"], "born": 1906}'
REASONING: Final = "Six times seven: five sevens make thirty-five, one more makes forty-two."
REASONED_ANSWER: Final = "It is 42."
WEATHER_CALL: Final = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Lisbon"}}\n</tool_call>'
WEATHER_ANSWER: Final = "Lisbon is clear and 24 degrees warm."

CHAT_SCRIPT: Final = Script(
    default=GREETING,
    branches=(
        Branch("Tell me a story", STORY),
        Branch("Answer in JSON", JSON_ANSWER),
        Branch("Think first", f"<think>\n{REASONING}\n</think>\n\n{REASONED_ANSWER}"),
        Branch("Never stop", "tick tock goes the patient clock,", is_endless=True),
        Branch("How is the weather", WEATHER_CALL),
        Branch("<tool_response>", WEATHER_ANSWER),
    ),
)

TITLE: Final = "Raise the retry limit"
EDIT_PROMPT: Final = "Raise the retry limit in settings.py to nine"
FINAL_TEXT: Final = "Done: settings.py now allows nine attempts."
OLD_LINE: Final = "MAXIMUM_ATTEMPTS = 3"
NEW_LINE: Final = "MAXIMUM_ATTEMPTS = 9"


def opencode_script(target: Path) -> Script:
    """Reads a file, edits it once its old line was seen, and reports once the edit was confirmed."""
    edit = {"filePath": str(target), "oldString": OLD_LINE, "newString": NEW_LINE}
    return Script(
        default=GREETING,
        branches=(
            Branch(EDIT_PROMPT, hermes_call("read", {"filePath": str(target)})),
            Branch(f"1: {OLD_LINE}", hermes_call("edit", edit)),
            Branch("Edit applied successfully", FINAL_TEXT),
            Branch("You are a title generator", TITLE),
        ),
    )


WRITE_PROMPT: Final = "Write the long table into table.txt"
WRITTEN_TEXT: Final = "The table is complete."


def long_write_script(target: Path, content: str) -> Script:
    """Writes a file in one long call, and reports once it is written."""
    return Script(
        default=GREETING,
        branches=(
            Branch(WRITE_PROMPT, hermes_call("write", {"filePath": str(target), "content": content})),
            Branch("Wrote file successfully", WRITTEN_TEXT),
            Branch("You are a title generator", "A long table"),
        ),
    )


def hermes_call(name: str, arguments: Mapping[str, object]) -> str:
    """Writes a tool call as models of the Hermes family do."""
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"
