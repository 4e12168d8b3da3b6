"""Decode rate where the answer copies much of the prompt, and where it does not."""

from bench.client import Body
from bench.servers.target import Target
from bench.sessions import explanation_request
from bench.workload import OURS, PEER, Contestant, Round, Sample, Workload

WITHOUT = Contestant("localcode, no speculation", "localcode", {"speculation": "none"})


async def measure(target: Target, turn: Round) -> list[Sample]:
    """An edit that repeats a file but for one name, then ordinary chat."""
    edit = await target.chat(edit_request(turn))
    chat = await target.chat(explanation_request(3, max_tokens=2 * turn.sizes.answer_tokens, salt=turn.salt("chat")))
    return [
        Sample("copy-heavy edit", edit.decode_tokens_per_second, "tokens/s", "higher"),
        Sample("ordinary chat", chat.decode_tokens_per_second, "tokens/s", "higher"),
        Sample("tokens of the edit", edit.completion_tokens, "tokens"),
    ]


def edit_request(turn: Round) -> Body:
    """Asks for a whole file with one function renamed."""
    code = source_file(turn.sizes.edit_lines, first=10 * turn.number)
    name = f"field_{10 * turn.number}"
    content = f"Write this file again with `{name}` renamed to `identifier`. Output only code.\n\n```python\n{code}```"
    return {
        "model": "main",
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": 16 * turn.sizes.edit_lines,
    }


def source_file(lines: int, *, first: int) -> str:
    """A plain Python class of about so many lines."""
    fields = range(first, first + max(lines // 4, 1))
    methods = (
        f'    def field_{number}(self) -> str:\n        """Says what field {number} holds."""\n'
        f'        return str(self._values["{number}"])\n\n'
        for number in fields
    )
    head = "class Record:\n    def __init__(self, values: dict[str, str]) -> None:\n        self._values = values\n\n"
    return head + "".join(methods)


SPECULATION = Workload(
    "speculation",
    "an edit that copies its prompt, and chat",
    measure,
    contestants=(OURS, WITHOUT, PEER),
    fresh=False,
)
