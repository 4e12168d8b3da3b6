"""A chat template in the Hermes style, as Qwen2.5 and many small models use it; written for the test models."""

from typing import Final

HERMES_TEMPLATE: Final = """\
{%- macro text_of(content) -%}
  {%- if content is string -%}{{ content }}
  {%- elif content -%}{%- for part in content if part.type == "text" -%}{{ part.text }}{%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{%- set has_system = messages and messages[0].role == "system" -%}
{%- if has_system or tools -%}
  {{- "<|im_start|>system\\n" -}}
  {%- if has_system -%}{{ text_of(messages[0].content) }}{%- endif -%}
  {%- if tools -%}
    {{- "\\n\\nFunctions you may call, one JSON object a line:\\n<tools>" -}}
    {%- for tool in tools -%}{{ "\\n" ~ (tool | tojson) }}{%- endfor -%}
    {{- "\\n</tools>\\nCall one by writing\\n<tool_call>\\n" -}}
    {{- '{"name": its name, "arguments": an object}\\n</tool_call>' -}}
  {%- endif -%}
  {{- "<|im_end|>\\n" -}}
{%- endif -%}
{%- for message in messages -%}
  {%- if message.role == "tool" -%}
    {{- "<|im_start|>user\\n<tool_response>\\n" ~ text_of(message.content) ~ "\\n</tool_response><|im_end|>\\n" -}}
  {%- elif not (loop.first and has_system) -%}
    {{- "<|im_start|>" ~ message.role ~ "\\n" -}}
    {%- if message.reasoning_content -%}
      {{- "<think>\\n" ~ message.reasoning_content ~ "\\n</think>\\n\\n" -}}
    {%- endif -%}
    {{- text_of(message.content) -}}
    {%- for call in message.tool_calls or [] -%}
      {%- set function = call.function or call -%}
      {%- if text_of(message.content) or not loop.first -%}{{ "\\n" }}{%- endif -%}
      {{- '<tool_call>\\n{"name": "' ~ function.name ~ '", "arguments": ' -}}
      {{- (function.arguments | tojson) ~ "}\\n</tool_call>" -}}
    {%- endfor -%}
    {{- "<|im_end|>\\n" -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ "<|im_start|>assistant\\n" }}{%- endif -%}
"""
