"""How requests of known agents are told apart beyond what headers say, as their clients really send them.

Recorded from Claude Code 2.1.197, Codex 0.169.0 and Qwen Code 0.15.10 (`tests/unit/recorded`). Loops are known by their
tools and spawned agents of Claude Code and Codex by their headers; Qwen Code sends no such header.
"""

from typing import Final

from localcode.inference.v1 import inference_pb2 as pb
from services.router.classify import ClassRule

CLIENT_RULES: Final = (
    ClassRule("claude code title", pb.REQUEST_CLASS_TITLE, user_agent="claude", system_contains="title",
              has_tools=False, max_message_count=4),
    ClassRule("claude code session name", pb.REQUEST_CLASS_TITLE, user_agent="claude",
              system_contains="generate a short kebab-case name", has_tools=False),
    ClassRule("claude code compaction", pb.REQUEST_CLASS_COMPACTION, user_agent="claude",
              last_user_contains="your task is to create a detailed summary of the conversation"),
    ClassRule("codex compaction", pb.REQUEST_CLASS_COMPACTION, user_agent="codex",
              last_user_contains="context checkpoint compaction"),
    ClassRule("qwen code title", pb.REQUEST_CLASS_TITLE, user_agent="qwen",
              system_prefix="Generate a concise, sentence-case title"),
    ClassRule("qwen code session name", pb.REQUEST_CLASS_TITLE, user_agent="qwen",
              system_prefix="Generate a short kebab-case name", has_tools=False),
    ClassRule("qwen code label", pb.REQUEST_CLASS_TITLE, user_agent="qwen",
              system_prefix="Write a short summary label", has_tools=False),
    ClassRule("qwen code suggestion", pb.REQUEST_CLASS_TITLE, user_agent="qwen",
              last_user_contains="[suggestion mode:", has_tools=False),
    ClassRule("qwen code compaction", pb.REQUEST_CLASS_COMPACTION, user_agent="qwen",
              system_contains="<state_snapshot>", has_tools=False),
    ClassRule("qwen code memory", pb.REQUEST_CLASS_COMPACTION, user_agent="qwen",
              system_prefix="You are now acting as the managed memory extraction subagent"),
    ClassRule("qwen code agent", pb.REQUEST_CLASS_SUBAGENT, user_agent="qwen",
              system_contains="you operate in non-interactive mode: do not ask the user", has_tools=True),
)  # fmt: skip
"""Titles, names, labels and suggestions count as titles: small, and nobody waits for them. So with the memory of a
session, which is written behind its turns, as with its summary."""
