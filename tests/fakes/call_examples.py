"""Calls as models of each format write them: right, wrong but certain, and text that only looks like one."""

import json
from dataclasses import dataclass

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.tool_calls import Format, pick_format

SCHEMA = {
    "type": "object",
    "properties": {
        "path": {"type": "string"},
        "limit": {"type": "integer"},
        "all": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "options": {"type": "object"},
        "note": {"type": ["string", "null"]},
        "mode": {"anyOf": [{"$ref": "#/$defs/mode"}, {"type": "null"}]},
    },
    "$defs": {"mode": {"enum": ["fast", "slow"]}},
}
TOOLS = [pb.Tool(name=name, parameters_json=json.dumps(SCHEMA)) for name in ("read", "list_files", "Task")]
READ = ("read", {"path": "a.py"})
LIST = ("list_files", {"path": "src", "limit": 5})

TEMPLATES = {
    "hermes": "<tool_call>",
    "qwen-coder": "<tool_call><function=",
    "llama": "<|python_tag|>",
    "mistral": "[TOOL_CALLS]",
    "mistral-named": "[TOOL_CALLS] [ARGS]",
    "deepseek": "<｜tool▁calls▁begin｜>",
    "deepseek-r1": "<｜tool▁calls▁begin｜> ```json",
    "glm": "<tool_call><arg_key>",
    "harmony": "<|channel|><|message|>",
    "gemma": "<start_of_turn>",
    "gemma4": "<|tool_call>call:",
    "granite": "<|tool_call|>",
    "kimi": "<|tool_calls_section_begin|>",
    "minimax": "<minimax:tool_call>",
    "generic": "",
}


@dataclass
class Example:
    format: str
    one: str
    two: str
    """Two calls, `READ` and `LIST`."""
    repaired: tuple[str, ...] = ()
    """Other ways to write `READ`, wrong but certain."""
    texts: tuple[str, ...] = ()
    """What looks like a call but is none."""


def qwen(*calls: str) -> str:
    return "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls)


QWEN_READ = "<function=read>\n<parameter=path>\na.py\n</parameter>\n</function>"
QWEN_LIST = (
    "<function=list_files>\n<parameter=path>\nsrc\n</parameter>\n<parameter=limit>\n5\n</parameter>\n</function>"
)
GLM_READ = "<tool_call>read\n<arg_key>path</arg_key>\n<arg_value>a.py</arg_value>\n</tool_call>"
GLM_LIST = (
    "<tool_call>list_files<arg_key>path</arg_key><arg_value>src</arg_value>"
    "<arg_key>limit</arg_key><arg_value>5</arg_value></tool_call>"
)
MM_READ = '<invoke name="read">\n<parameter name="path">a.py</parameter>\n</invoke>'
MM_LIST = (
    '<invoke name="list_files">\n<parameter name="path">src</parameter>\n'
    '<parameter name="limit">5</parameter>\n</invoke>'
)
JSON_READ = '{"name": "read", "arguments": {"path": "a.py"}}'
JSON_LIST = '{"name": "list_files", "arguments": {"path": "src", "limit": 5}}'
LLAMA_READ = JSON_READ.replace("arguments", "parameters")
LLAMA_LIST = JSON_LIST.replace("arguments", "parameters")
PY_READ, PY_LIST = 'read(path="a.py")', "list_files(path='src', limit=5)"
DS_READ = '<｜tool▁call▁begin｜>read<｜tool▁sep｜>{"path": "a.py"}<｜tool▁call▁end｜>'
DS_LIST = '<｜tool▁call▁begin｜>list_files<｜tool▁sep｜>{"path": "src", "limit": 5}<｜tool▁call▁end｜>'
R1_READ = '<｜tool▁call▁begin｜>function<｜tool▁sep｜>read\n```json\n{"path": "a.py"}\n```<｜tool▁call▁end｜>'
R1_LIST = (
    "<｜tool▁call▁begin｜>function<｜tool▁sep｜>list_files\n```json\n"
    '{"path": "src", "limit": 5}\n```<｜tool▁call▁end｜>'
)
KIMI_READ = '<|tool_call_begin|>functions.read:0<|tool_call_argument_begin|>{"path": "a.py"}<|tool_call_end|>'
KIMI_LIST = (
    '<|tool_call_begin|>functions.list_files:1<|tool_call_argument_begin|>{"path": "src", "limit": 5}<|tool_call_end|>'
)
HARMONY_READ = '<|channel|>commentary to=functions.read <|constrain|>json<|message|>{"path": "a.py"}<|call|>'
HARMONY_LIST = (
    '<|start|>assistant to=functions.list_files<|channel|>commentary json<|message|>{"path": "src", "limit": 5}<|call|>'
)
G4_READ = '<|tool_call>call:read{path:<|"|>a.py<|"|>}<tool_call|>'
G4_LIST = '<|tool_call>call:list_files{limit:5,path:<|"|>src<|"|>}<tool_call|>'

EXAMPLES = [
    Example("hermes", f"<tool_call>\n{JSON_READ}\n</tool_call>",
            f"<tool_call>\n{JSON_READ}\n</tool_call>\n<tool_call>\n{JSON_LIST}\n</tool_call>",
            (f"<tool_call>\n{JSON_READ}", f"<tool_call>\n{JSON_READ[:-1]}\n</tool_call>",
             '<tool_call>\n{"name": "read", "arguments": {"path": "a.py",}}\n</tool_call>')),
    Example("qwen-coder", qwen(QWEN_READ), qwen(QWEN_READ, QWEN_LIST),
            (f"<tool_call>\n{QWEN_READ}", QWEN_READ, f"{QWEN_READ}\n</tool_call>",
             qwen(QWEN_READ.removesuffix("\n</function>")),
             QWEN_READ.removesuffix("\n</parameter>\n</function>"),
             QWEN_READ.removesuffix("</parameter>\n</function>") + "</param",
             qwen(QWEN_READ.replace("\n</parameter>", "")),
             "<tool_call>\n<function=read><parameter=path>a.py</parameter></function></tool_call>",
             f"<tool_call>\n{JSON_READ}\n</tool_call>"),
            ("Use <function=name> and <parameter=key> to call.", "<tool_call>\n<function=>x",
             "<tool_call>\n<function=read")),
    Example("minimax", f"<minimax:tool_call>\n{MM_READ}\n</minimax:tool_call>",
            f"<minimax:tool_call>\n{MM_READ}\n{MM_LIST}\n</minimax:tool_call>",
            (f"<minimax:tool_call>\n{MM_READ}", MM_READ, MM_READ.removesuffix("\n</invoke>"),
             f"<minimax:tool_call>{MM_READ.replace('</parameter>', '')}\n</minimax:tool_call>",
             MM_READ.replace('"', "'"), MM_READ.replace('"', "")),
            ('An <invoke name="x"> element.', "<minimax:tool_call>\nno call")),
    Example("glm", GLM_READ, f"{GLM_READ}\n{GLM_LIST}",
            (GLM_READ.replace("\n", ""), GLM_READ.removesuffix("\n</tool_call>"),
             GLM_READ.replace("</arg_value>", ""), GLM_READ.replace("\n<arg_value>", ""),
             GLM_READ.removesuffix("</arg_value>\n</tool_call>") + "</arg_v",
             f"<tool_call>\n{JSON_READ}\n</tool_call>"),
            ("Use <tool_call> and </tool_call>.", "<tool_call>unknown</tool_call>", "<tool_call>rea")),
    Example("llama", LLAMA_READ, f"{LLAMA_READ}; {LLAMA_LIST}",
            (f"<|python_tag|>{LLAMA_READ}", LLAMA_READ[:-1], f"<|python_tag|>[{LLAMA_READ}]",
             '{"type": "function", "name": "read", "parameters": {"path": "a.py"}}',
             '<|python_tag|>read.call(path="a.py")', f"[{PY_READ}]", f"[{PY_READ}", '[read(path="a.py',
             '[read(path = """a.py""",)]'),
            ("[x] done\n[link](http://a)\n[f(a=1)]", "[read me]", "[read(2)]", "<|python_tag|>1 + 1", "[Todo(a=1)]")),
    Example("mistral", f"[TOOL_CALLS] [{JSON_READ}]", f"[TOOL_CALLS][{JSON_READ}, {JSON_LIST}]",
            (f"[TOOL_CALLS][{JSON_READ}", f"[TOOL_CALLS]{JSON_READ}", f"[{JSON_READ}]"),
            ("[TOOL", "See [TOOL_CALLS] and [1].")),
    Example("mistral-named", '[TOOL_CALLS]read[ARGS]{"path": "a.py"}',
            '[TOOL_CALLS]read[ARGS]{"path": "a.py"}'
            '[TOOL_CALLS]list_files[CALL_ID]a1b2c3d4e[ARGS]{"path": "src", "limit": 5}',
            ('[TOOL_CALLS]read[ARGS]{"path": "a.py"', '[TOOL_CALLS]read{"path": "a.py"}',
             "[TOOL_CALLS]read[ARGS]{'path': 'a.py',}", f"[TOOL_CALLS][{JSON_READ}]"),
            ("[TOOL_CALLS]read", "The mark [TOOL_CALLS] is not [ARGS].")),
    Example("deepseek", f"<｜tool▁calls▁begin｜>{DS_READ}<｜tool▁calls▁end｜>",
            f"<｜tool▁calls▁begin｜>{DS_READ}{DS_LIST}<｜tool▁calls▁end｜>",
            (f"<｜tool▁calls▁begin｜>{DS_READ}", DS_READ, DS_READ.removesuffix("<｜tool▁call▁end｜>"),
             DS_READ.removesuffix("}<｜tool▁call▁end｜>"), DS_READ.replace("}", ""), R1_READ),
            ("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>read", "<｜tool▁call▁begin｜>no name<｜tool▁sep｜>{}")),
    Example("deepseek-r1", f"<｜tool▁calls▁begin｜>{R1_READ}<｜tool▁calls▁end｜>",
            f"<｜tool▁calls▁begin｜>{R1_READ}\n{R1_LIST}<｜tool▁calls▁end｜>",
            (R1_READ, R1_READ.removesuffix("<｜tool▁call▁end｜>"), R1_READ.partition("\n```<")[0],
             R1_READ.replace("```json\n", "").replace("\n```", ""), f"```json\n{JSON_READ}\n```")),
    Example("kimi", f"<|tool_calls_section_begin|>{KIMI_READ}<|tool_calls_section_end|>",
            f"<|tool_calls_section_begin|>{KIMI_READ}{KIMI_LIST}<|tool_calls_section_end|>",
            (KIMI_READ, KIMI_READ.removesuffix("<|tool_call_end|>"), KIMI_READ.removesuffix("}<|tool_call_end|>"),
             KIMI_READ.replace("}", ""),
             KIMI_READ.replace("functions.", ""), KIMI_READ.replace(":0<", " <"),
             KIMI_READ.replace('{"path": "a.py"}', json.dumps('{"path": "a.py"}'))),
            ("<|tool_calls_section_begin|>", "<|tool_call_begin|>functions.read:0")),
    Example("harmony", HARMONY_READ, f"{HARMONY_READ}{HARMONY_LIST}",
            (HARMONY_READ.removesuffix("<|call|>"), HARMONY_READ.replace("<|constrain|>", ""),
             HARMONY_READ.removesuffix("}<|call|>"), HARMONY_READ.replace("}", ""), f"<|start|>assistant{HARMONY_READ}",
             HARMONY_READ.replace("commentary", "analysis")),
            ("<|channel|>commentary to=functions.read",)),
    Example("gemma", f"```tool_code\n{PY_READ}\n```", f"[{PY_READ}, {PY_LIST}]",
            (f"```tool_code\nprint({PY_READ})\n```", f"```tool_code\ndefault_api.{PY_READ}\n```",
             f"```tool_code\n{PY_READ}", LLAMA_READ, f"```json\n{LLAMA_READ}\n```", f"```tool_code\n[{PY_READ}]\n```",
             '```tool_code\nread("a.py")\n```'),
            ("```tool_code\nprint(1 + 1)\n```", f"```python\n{PY_READ}\n```", f"Call {PY_READ} now.")),
    Example("gemma4", G4_READ, f"{G4_READ}{G4_LIST}".replace("limit:5,path:", "limit:5,\npath: "),
            (G4_READ.removesuffix("<tool_call|>"), G4_READ.replace("}", ""), G4_READ.removesuffix('<|"|>}<tool_call|>'),
             G4_READ.replace('<|"|>', '"'), f"<|tool_call>{JSON_READ}<tool_call|>"),
            ("<|tool_call>read", "<|tool_call>call:{}")),
    Example("granite", f"<|tool_call|>[{JSON_READ}]", f"<|tool_call|>[{JSON_READ}, {JSON_LIST}]",
            (f"<tool_call>[{JSON_READ}]", f"<|tool_call|>{JSON_READ}", f"<|tool_call|>[{JSON_READ}")),
    Example("generic", JSON_READ, f"{JSON_READ}\n{JSON_LIST}", (
        DS_READ, R1_READ, KIMI_READ, MM_READ, qwen(QWEN_READ), f"[{PY_READ}]", f"[TOOL_CALLS] [{JSON_READ}]",
        f"<|tool_call|>[{JSON_READ}]", '[TOOL_CALLS]read[ARGS]{"path": "a.py"}')),
]  # fmt: skip
IDS = [example.format for example in EXAMPLES]


def format_of(name: str) -> Format:
    return pick_format(TEMPLATES[name])
