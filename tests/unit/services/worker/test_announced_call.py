import pytest

from services.worker.announced_call import announced_tool, opening_of_call
from services.worker.tool_calls.formats import GENERIC
from services.worker.tool_calls.formats.hermes import HERMES
from services.worker.tool_calls.formats.qwen_coder import QWEN_CODER

NAMES = ("bash", "edit", "glob", "grep", "read", "task", "webfetch", "write")


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ("To find test files here, you can use the `glob` tool with the pattern `**/*.test.js`.", "glob"),
        ('I will use the glob tool to find them. Here\'s the command:\n\n```bash\nglob "**/*.go"\n```\n\nThis', "glob"),
        ("To summarize it, I will use the `WebFetch` tool to retrieve the content of CHANGELOG.md.", "webfetch"),
        ("Follow these steps:\n\n1. Use the `glob` tool to find it.\n2. Use the `read` tool to read it.", "glob"),
        ("Let me call the **read** function on src/config.py first.", "read"),
        ("I'll look at it using the 'read' tool.", "read"),
        ("To determine if there is any use of `eval()`, you can use the `grep` tool to search for it.", "grep"),
    ],
)
def test_an_answer_that_says_which_tool_it_uses_announces_a_call_of_it(answer: str, name: str) -> None:
    assert announced_tool(answer, NAMES) == name


@pytest.mark.parametrize(
    "answer",
    [
        "HTTP status code 404 means that nothing was found.",
        "You can read the file and write a test for it; use grep and sed, or bash.",
        "I don't need to use the `read` tool for that.",
        "There is no need to use the `bash` tool.",
        "Would you like me to use the `edit` tool to change it?",
        "If you want, I can use the `edit` tool.",
        "2. If it is there, use the `edit` tool.",
        "I can use the `edit` tool if you like.",
        "I used the `grep` tool and found three places.",
        "Use the `git` tool to see the history.",
        "A hammer is a tool.\n```\nuse the `bash` tool\n```\n",
        "Here is what I will do:\n```bash\nuse the `bash` tool",
        "",
    ],
)
def test_all_other_answers_announce_nothing(answer: str) -> None:
    assert announced_tool(answer, NAMES) is None


def test_of_two_names_the_whole_one_counts() -> None:
    assert announced_tool("I will use the `read_file` tool.", ("read", "read_file")) == "read_file"


def test_a_call_is_opened_as_the_family_of_the_model_writes_it() -> None:
    assert opening_of_call(HERMES.shape, "glob") == '\n<tool_call>\n{"name": "glob", "arguments": '
    assert opening_of_call(GENERIC.shape, "glob").endswith('{"name": "glob", "arguments": ')
    assert opening_of_call(QWEN_CODER.shape, "glob") == ""
