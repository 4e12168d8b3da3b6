import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.worker.harmony_channels import ChannelSplitter
from services.worker.pieces import Piece
from services.worker.reasoning import (
    HarmonyReasoning,
    ReasoningFormat,
    ReasoningSplitter,
    Splitter,
    content_of,
    pick_reasoning,
)


def split(text: str, *, starts_open: bool = False, size: int | None = None) -> tuple[str, str]:
    splitter = ReasoningSplitter(ReasoningFormat(starts_open=starts_open))
    step = size or max(len(text), 1)
    pieces = [piece for start in range(0, len(text), step) for piece in splitter.feed(text[start : start + step])]
    pieces += splitter.flush()
    reasoning = "".join(piece.text for piece in pieces if piece.is_reasoning)
    return reasoning, "".join(piece.text for piece in pieces if not piece.is_reasoning)


@pytest.mark.parametrize(
    ("text", "starts_open", "expected"),
    [
        ("<think>\nwhy\n</think>\n\nbecause", False, ("why", "because")),
        ("why\n\nnot\n</think>\nbecause", True, ("why\n\nnot", "because")),
        ("<think>\nwhy</think>because", True, ("why", "because")),
        ("\n<think></think>\nhi", False, ("", "hi")),
        ("no tags <think>here</think>", False, ("", "no tags <think>here</think>")),
        ("<think>a < b </thin b</think>x </think> y", False, ("a < b </thin b", "x </think> y")),
        ("<think>cut in the middle", False, ("cut in the middle", "")),
        ("<thi", False, ("", "<thi")),
        ("  indented", False, ("", "  indented")),
    ],
)
@pytest.mark.parametrize("size", [None, 1, 2, 3, 5])
def test_reasoning_is_split_off(text: str, starts_open: bool, expected: tuple[str, str], size: int | None) -> None:
    assert split(text, starts_open=starts_open, size=size) == expected


@given(st.text("<think>/ \nab", max_size=40), st.booleans(), st.integers(1, 7))
def test_any_cut_of_the_text_gives_the_same_result(text: str, starts_open: bool, size: int) -> None:
    assert split(text, starts_open=starts_open, size=size) == split(text, starts_open=starts_open)


def test_the_content_of_a_whole_answer_is_what_follows_the_reasoning() -> None:
    assert content_of("<think>\nwhy\n</think>\n\nbecause", ReasoningFormat()) == "because"
    assert content_of("still thinking", ReasoningFormat(starts_open=True)) == ""
    assert content_of("<think>as it is", None) == "<think>as it is"


def test_reasoning_streams_as_it_comes() -> None:
    splitter = ReasoningSplitter(ReasoningFormat())
    assert [piece.text for text in ("<think>", "I", " see", ".") for piece in splitter.feed(text)] == ["I", " see", "."]
    assert splitter.is_reasoning


def test_the_format_is_read_from_template_and_prompt() -> None:
    assert pick_reasoning("{{ messages }}", "<think>\n") is None
    assert pick_reasoning("...</think>...", "<|im_start|>assistant\n<think>\n") == ReasoningFormat(starts_open=True)
    assert pick_reasoning("...</think>...", "<think>\n\n</think>\n\n") == ReasoningFormat(is_off=True)


def kinds(splitter: Splitter, text: str, size: int | None = None) -> list[tuple[str, bool]]:
    """What a splitter makes of a text, neighbours of one kind joined."""
    step = size or max(len(text), 1)
    pieces: list[Piece] = []
    for start in range(0, len(text), step):
        pieces += splitter.feed(text[start : start + step])
    joined: list[tuple[str, bool]] = []
    for piece in [*pieces, *splitter.flush()]:
        assert piece.text
        if joined and joined[-1][1] == piece.is_reasoning:
            joined[-1] = (joined[-1][0] + piece.text, piece.is_reasoning)
        else:
            joined.append((piece.text, piece.is_reasoning))
    return joined


QWEN = "{{ '<think>' }} {{ '</think>' }}"
GEMMA4 = "{{ '<|channel>thought' }} {{ '<channel|>' }}"
GRANITE = "Write your thoughts between <think></think> and your response between <response></response>."
GRANITE_2 = "Write 'Here is my thought process:' and 'Here is my response:'."
MAGISTRAL = "[THINK]...[/THINK] [TOOL_CALLS]"
KIMI = "<think></think><|tool_calls_section_begin|>"


@pytest.mark.parametrize(
    ("template", "prompt", "answer", "expected"),
    [
        (QWEN, "assistant\n", "<think>\nhm\n</think>\n\nyes", [("hm", True), ("yes", False)]),
        (QWEN, "assistant\n<think>\n", "hm\n</think>\n\nyes", [("hm", True), ("yes", False)]),
        (QWEN, "<think>\n\n</think>\n\n", "yes", [("yes", False)]),
        (QWEN, "<think></think>", "\nyes", [("\nyes", False)]),
        (QWEN, "<|Assistant|></think>", "yes <think>", [("yes <think>", False)]),
        (QWEN, "assistant\n", "<think>\n\n</think>\n\nyes", [("yes", False)]),
        (MAGISTRAL, "[/INST]", "[THINK]hm[/THINK]yes", [("hm", True), ("yes", False)]),
        (MAGISTRAL, "[/INST]", "[THINK]hm[TOOL_CALLS]f[ARGS]{}", [("hm", True), ("[TOOL_CALLS]f[ARGS]{}", False)]),
        (KIMI, "<think>", "hm<|tool_calls_section_begin|>x", [("hm", True), ("<|tool_calls_section_begin|>x", False)]),
        (GEMMA4, "model\n", "<|channel>thought\nhm<channel|>yes", [("hm", True), ("yes", False)]),
        (GEMMA4, "model\n<|channel>thought\n<channel|>", "yes", [("yes", False)]),
        (GRANITE, "", "<think>hm</think>\n<response>yes</response>", [("hm", True), ("yes", False)]),
        (GRANITE, "", "<think>hm</think>yes </response> no", [("hm", True), ("yes </response> no", False)]),
        (GRANITE, "", "<think>hm</think><response>a </resp", [("hm", True), ("a </resp", False)]),
        (GRANITE_2, "", "Here is my thought process: hm\nHere is my response: yes", [("hm", True), ("yes", False)]),
    ],
)
def test_each_template_says_how_reasoning_is_marked(
    template: str, prompt: str, answer: str, expected: list[tuple[str, bool]]
) -> None:
    for size in (None, 1, 2, 3, 5):
        reasoning = pick_reasoning(template, prompt)
        assert reasoning is not None
        assert kinds(reasoning.splitter(), answer, size) == expected


ANALYSIS = "<|channel|>analysis<|message|>"
FINAL = "<|start|>assistant<|channel|>final<|message|>"
CALL = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (f"{ANALYSIS}hm<|end|>{FINAL}yes<|return|>", [("hm", True), ("yes", False)]),
        (f"{ANALYSIS}hm<|end|>{FINAL}yes", [("hm", True), ("yes", False)]),
        (f"{ANALYSIS}a<|end|><|start|>assistant{ANALYSIS}b<|end|>{FINAL}c", [("a\n\nb", True), ("c", False)]),
        (f"{ANALYSIS}hm<|channel|>final<|message|>yes", [("hm", True), ("yes", False)]),
        (f"{ANALYSIS}hm<|end|><|start|>assistant{CALL}<|call|>", [("hm", True), (f"{CALL}<|call|>", False)]),
        (CALL, [(CALL, False)]),
        (
            "to=functions.f<|channel|>commentary json<|message|>{}",
            [("<|start|>to=functions.f<|channel|>commentary json<|message|>{}", False)],
        ),
        (f"<|channel|>commentary<|message|>I look.<|end|>{FINAL}Done.", [("I look.\n\nDone.", False)]),
        ("plain", [("plain", False)]),
        ("  <plain", [("  <plain", False)]),
        ("<|channel|>analysis", [("<|channel|>analysis", False)]),
        (f"{ANALYSIS}a < b <|", [("a < b <|", True)]),
        (f"{ANALYSIS}hm<|end|>rest", [("hm", True), ("rest", False)]),
    ],
)
def test_the_channels_of_harmony_are_taken_apart(answer: str, expected: list[tuple[str, bool]]) -> None:
    for size in (None, 1, 2, 3, 5):
        assert kinds(ChannelSplitter(), answer, size) == expected


def test_harmony_may_be_continued_in_its_analysis() -> None:
    reasoning = pick_reasoning("<|channel|> <|message|>", f"<|start|>assistant{ANALYSIS}")
    assert reasoning == HarmonyReasoning(starts_open=True)
    assert kinds(reasoning.splitter(), f"hm<|end|>{FINAL}yes") == [("hm", True), ("yes", False)]


HARMONY_PARTS = ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>", "assistant",
                 "analysis", "final", "commentary", " to=functions.f ", "a", " ", "<|", "<", "json", "{}"]  # fmt: skip


@given(st.lists(st.sampled_from(HARMONY_PARTS), max_size=15).map("".join), st.integers(1, 9))
def test_any_cut_of_channels_gives_the_same_result(text: str, size: int) -> None:
    assert kinds(ChannelSplitter(), text, size) == kinds(ChannelSplitter(), text)


@given(st.text())
def test_text_without_channels_is_content(text: str) -> None:
    assert "".join(piece for piece, _ in kinds(ChannelSplitter(), text, 3)).strip() == text.strip()
