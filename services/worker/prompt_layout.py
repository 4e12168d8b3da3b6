"""Where the parts of a prompt stand: orders that let sessions share more of it than the chat template's own.

Agents write the working directory and the date into the system prompt, which most templates put before the tools. A
session in another directory, or on another day, then shares nothing of the tools (5,090 tokens for OpenCode).
Which order loses no tool calls depends on the model: `bench/RESULTS.md` holds the numbers of each.
"""

import re
from typing import Final, Literal

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.settings import ConfigurationError

PromptLayout = Literal[
    "template", "environment_in_user", "environment_message", "tools_first", "tools_first_restated",
]  # fmt: skip
_ENVIRONMENT: Final = re.compile(r"<env>.*?</env>", re.DOTALL)
_MOVED: Final = "(stated below)"
# Without the first sentence a small model calls a tool for everything, greetings too.
_RESTATED: Final = (
    "\n\nIf the user's message can be answered without a function, answer it in plain text. To use one of the "
    "functions above, answer with a JSON object of its name and arguments within <tool_call></tool_call> XML tags."
)
_TOOLS_FIRST: Final = """\
{%- set has_system = messages and messages[0].role == "system" -%}
<|im_start|>system
{% if tools -%}
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{%- for tool in tools +%}
{{ tool | tojson }}
{%- endfor +%}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>

{% endif -%}
{{ messages[0].content if has_system else "You are a helpful assistant." }}
{%- if tools %}%RESTATED%{% endif %}<|im_end|>
{% for message in messages[1 if has_system else 0:] -%}
{%- if message.role == "tool" -%}
{%- if loop.first or loop.previtem.role != "tool" -%}<|im_start|>user{%- endif +%}
<tool_response>
{{ message.content }}
</tool_response>
{%- if loop.last or loop.nextitem.role != "tool" %}<|im_end|>
{% endif -%}
{%- elif message.tool_calls -%}
<|im_start|>assistant
{%- if message.content +%}
{{ message.content }}
{%- endif -%}
{%- for call in message.tool_calls +%}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% else -%}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}
"""


def template_of(layout: PromptLayout, own: str) -> str:
    """The chat template of a layout; `own` is the model's. A layout that doesn't fit it is a `ConfigurationError`."""
    if not layout.startswith("tools_first"):
        return own
    if "<|im_start|>" not in own or "<tool_call>" not in own:
        raise ConfigurationError(f"prompt_layout {layout!r} needs a model of the ChatML/Hermes form; use 'template'.")
    return _TOOLS_FIRST.replace("%RESTATED%", _RESTATED if layout == "tools_first_restated" else "")


def lay_out(chat: pb.ChatPrompt, layout: PromptLayout) -> pb.ChatPrompt:
    """Moves the environment (`<env>…</env>` of the system prompt) behind the tools, where the layout says so."""
    if not layout.startswith("environment") or not chat.tools or not chat.messages:
        return chat
    system = chat.messages[0]
    if system.role != pb.ROLE_SYSTEM or len(system.content) != 1:
        return chat
    found = _ENVIRONMENT.search(system.content[0].text)
    if found is None:
        return chat
    moved = pb.ChatPrompt()
    moved.CopyFrom(chat)
    moved.messages[0].content[0].text = _ENVIRONMENT.sub(_MOVED, system.content[0].text, count=1)
    return _with_environment(moved, found.group(), in_user=layout == "environment_in_user")


def _with_environment(chat: pb.ChatPrompt, environment: str, *, in_user: bool) -> pb.ChatPrompt:
    user = next((message for message in chat.messages if message.role == pb.ROLE_USER), None)
    if in_user and user is not None:
        user.content.insert(0, pb.ContentPart(text=environment))
    else:
        chat.messages.insert(1, pb.Message(role=pb.ROLE_SYSTEM, content=[pb.ContentPart(text=environment)]))
    return chat
