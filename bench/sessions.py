"""Requests of the size and shape that a coding agent sends, made here so that anyone can run the benchmarks."""

from typing import Any, Final

_TOOLS: Final = ("bash", "edit", "glob", "grep", "read", "skill", "task", "todowrite", "webfetch", "write")
_RULES: Final = (
    "Keep answers short and to the point.",
    "Read a file before you change it.",
    "Follow the conventions of the code around a change.",
    "Never commit unless you are asked to.",
    "Run the tests after a change and report what they say.",
    "Prefer small functions with clear names.",
)


def main_request(*, directory: str, task: str, system_rules: int = 150, tool_sentences: int = 36) -> dict[str, Any]:
    """The first request of an agent loop: about 7,000 tokens of system prompt and tools, then the task."""
    rules = "\n".join(f"{number}. {_RULES[number % len(_RULES)]}" for number in range(system_rules))
    system = f"You are a coding agent in a terminal.\n{rules}\n<env>\nWorking directory: {directory}\n</env>"
    return {
        "model": "coder",
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": task}],
        "tools": [_tool(name, tool_sentences) for name in _TOOLS],
        "temperature": 0,
        "max_tokens": 16,
    }


def title_request(task: str) -> dict[str, Any]:
    """The request that names a session, sent beside the first one."""
    examples = "\n".join(f'"{rule}" -> a title of {number} words' for number, rule in enumerate(_RULES * 5, 3))
    return {
        "model": "small",
        "messages": [
            {"role": "system", "content": f"You are a title generator. You output ONLY a thread title.\n{examples}"},
            {"role": "user", "content": "Generate a title for this conversation:\n"},
            {"role": "user", "content": task},
        ],
        "temperature": 0,
        "max_tokens": 16,
    }


def _tool(name: str, sentences: int) -> dict[str, Any]:
    description = " ".join(f"{_RULES[number % len(_RULES)]} This holds for {name}." for number in range(sentences))
    schema = {
        "type": "object",
        "properties": {"target": {"type": "string", "description": f"What {name} works on"}},
        "required": ["target"],
    }
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}
