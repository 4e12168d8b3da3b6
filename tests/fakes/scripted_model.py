"""Writes a real, tiny llama-architecture model whose weights are set by hand so that it says scripted texts.

Every answer is cut into pieces that occur nowhere else, each a token of its own, so the last token alone tells what
comes next. One attention head a trigger looks for that trigger's token anywhere in the prompt; what the heads found
decides which answer begins. Margins are wide: temperature, batch size and backend do not change what is said.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import gguf
import numpy as np
from numpy.typing import NDArray

from tests.fakes.byte_vocabulary import END_OF_TEXT, TURN_END, Vocabulary, byte_vocabulary
from tests.fakes.chat_template import HERMES_TEMPLATE

Matrix = NDArray[np.floating]

HEAD_SIZE: Final = 64
FIRST_STILL_DIMENSION: Final = 32
"""RoPE turns the lower dimensions of a head; with the huge frequency base those from here on stand still."""
_FEED_FORWARD_SIZE: Final = 32
_PIECE_STRENGTH: Final = 8.0


@dataclass(frozen=True)
class Branch:
    """An answer that is given when a phrase occurs in the prompt."""

    trigger: str
    answer: str
    is_endless: bool = False


@dataclass(frozen=True)
class Script:
    """What a model says: of the branches whose trigger occurs the last one listed, without any `default`.

    Each of `control_texts` is a control token, and may be said once.
    """

    default: str
    branches: tuple[Branch, ...] = ()
    control_texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Plan:
    """A script as token ids: `answers[0]` is the default, `answers[n]` belongs to `triggers[n - 1]`."""

    vocabulary: Vocabulary
    triggers: list[int]
    answers: list[list[int]]
    endless: list[bool]

    @property
    def width(self) -> int:
        features = 1 + 2 * len(self.triggers) + sum(map(len, self.answers))
        return max(256, -(-features // 64) * 64)

    def trigger_here(self, index: int) -> int:
        return 1 + index

    def trigger_seen(self, index: int) -> int:
        return 1 + len(self.triggers) + index

    def first_piece(self) -> int:
        return 1 + 2 * len(self.triggers)


def write_scripted_model(
    path: Path, script: Script, *, context: int = 8192, template: str = HERMES_TEMPLATE, loop: bool = False
) -> Path:
    """Writes the model of a script as a GGUF file. `loop` repeats the default answer until something else stops it."""
    plan = _plan(script, loop=loop)
    writer = gguf.GGUFWriter(path, "llama")
    _describe(writer, plan, context)
    _add_tokenizer(writer, plan.vocabulary, template)
    for name, weights in {**_embeddings(plan), **_attention(plan), **_silent_feed_forward(plan)}.items():
        writer.add_tensor(name, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def cut_into_pieces(text: str, taken: set[str]) -> list[str]:
    """Cuts a text between words into pieces that are not yet taken, and takes them."""
    pieces: list[str] = []
    rest = ""
    for word in re.findall(r"\s*\S+(?:\s+\Z)?", text):
        rest += word
        if _is_new(rest, taken):
            taken.add(rest)
            pieces.append(rest)
            rest = ""
    while rest and not _is_new(rest, taken):
        if not pieces:
            raise ValueError(f"{text!r} has no piece that occurs nowhere else")
        taken.remove(pieces[-1])
        rest = pieces.pop() + rest
    if rest:
        taken.add(rest)
        pieces.append(rest)
    return pieces


def _is_new(piece: str, taken: set[str]) -> bool:
    return len(piece) > 1 and piece not in taken


def _plan(script: Script, *, loop: bool) -> _Plan:
    if len(script.branches) > HEAD_SIZE - FIRST_STILL_DIMENSION:
        raise ValueError("too many branches")
    vocabulary = byte_vocabulary()
    words = vocabulary.texts()
    triggers = [vocabulary.add(branch.trigger, gguf.TokenType.USER_DEFINED) for branch in script.branches]
    taken = words | {branch.trigger for branch in script.branches}
    answers = [
        list(_add_answer(vocabulary, answer, taken, script.control_texts))
        for answer in (script.default, *(branch.answer for branch in script.branches))
    ]
    return _Plan(vocabulary, triggers, answers, [loop, *(branch.is_endless for branch in script.branches)])


def _add_answer(vocabulary: Vocabulary, answer: str, taken: set[str], control_texts: tuple[str, ...]) -> Iterator[int]:
    marks = "|".join(map(re.escape, control_texts))
    for part in re.split(f"({marks})", answer) if marks else [answer]:
        if part in control_texts:
            yield vocabulary.add(part, gguf.TokenType.CONTROL)
        else:
            for piece in cut_into_pieces(part, taken):
                yield vocabulary.add(piece, gguf.TokenType.USER_DEFINED)


def _embeddings(plan: _Plan) -> dict[str, Matrix]:
    """A token is a constant and what it means; the last one names the next, or lets the triggers choose an answer."""
    shape = (len(plan.vocabulary.tokens), plan.width)
    meaning, follows = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    meaning[:, 0] = 1
    for index, token in enumerate(plan.triggers):
        meaning[token, plan.trigger_here(index)] = 1
    feature = plan.first_piece()
    for rank, (answer, is_endless) in enumerate(zip(plan.answers, plan.endless, strict=True)):
        follows[answer[0], plan.trigger_seen(rank - 1) if rank else 0] = 3 * (rank + 1)
        for token, successor in zip(answer, [*answer[1:], answer[0] if is_endless else TURN_END], strict=True):
            meaning[token, feature] = _PIECE_STRENGTH
            follows[successor, feature] = 10
            feature += 1
    return {
        "token_embd.weight": _half(meaning),
        "output.weight": _half(follows),
        "output_norm.weight": np.ones(plan.width, np.float32),
    }


def _attention(plan: _Plan) -> dict[str, Matrix]:
    """All heads share one key and one value a token: which trigger it is. Head n asks for trigger n alone."""
    head_count = max(1, len(plan.triggers))
    query = np.zeros((head_count * HEAD_SIZE, plan.width), np.float32)
    key = np.zeros((HEAD_SIZE, plan.width), np.float32)
    value = np.zeros_like(key)
    out = np.zeros((plan.width, head_count * HEAD_SIZE), np.float32)
    for index in range(len(plan.triggers)):
        dimension = FIRST_STILL_DIMENSION + index
        query[index * HEAD_SIZE + dimension, 0] = 1
        key[dimension, plan.trigger_here(index)] = 1
        value[dimension, plan.trigger_here(index)] = (2 / plan.width) ** 0.5  # undoes the norm: the head writes about 1
        out[plan.trigger_seen(index), index * HEAD_SIZE + dimension] = 1
    weights = {"attn_q": query, "attn_k": key, "attn_v": value, "attn_output": out}
    return {
        "blk.0.attn_norm.weight": np.ones(plan.width, np.float32),
        **{f"blk.0.{name}.weight": _half(matrix) for name, matrix in weights.items()},
    }


def _silent_feed_forward(plan: _Plan) -> dict[str, Matrix]:
    wide, narrow = (_FEED_FORWARD_SIZE, plan.width), (plan.width, _FEED_FORWARD_SIZE)
    return {
        "blk.0.ffn_norm.weight": np.ones(plan.width, np.float32),
        "blk.0.ffn_gate.weight": _half(np.zeros(wide, np.float32)),
        "blk.0.ffn_up.weight": _half(np.zeros(wide, np.float32)),
        "blk.0.ffn_down.weight": _half(np.zeros(narrow, np.float32)),
    }


def _half(matrix: Matrix) -> Matrix:
    return matrix.astype(np.float16)


def _describe(writer: gguf.GGUFWriter, plan: _Plan, context: int) -> None:
    writer.add_name("scripted")
    writer.add_description("says scripted texts, for tests")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_vocab_size(len(plan.vocabulary.tokens))
    writer.add_context_length(context)
    writer.add_embedding_length(plan.width)
    writer.add_feed_forward_length(_FEED_FORWARD_SIZE)
    writer.add_block_count(1)
    writer.add_head_count(max(1, len(plan.triggers)))
    writer.add_head_count_kv(1)
    writer.add_key_length(HEAD_SIZE)
    writer.add_value_length(HEAD_SIZE)
    writer.add_rope_dimension_count(HEAD_SIZE)
    writer.add_rope_freq_base(1e30)
    writer.add_layer_norm_rms_eps(1e-6)


def _add_tokenizer(writer: gguf.GGUFWriter, vocabulary: Vocabulary, template: str) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    writer.add_bos_token_id(END_OF_TEXT)
    writer.add_pad_token_id(END_OF_TEXT)
    writer.add_eos_token_id(TURN_END)
    writer.add_eot_token_id(TURN_END)
    writer.add_add_bos_token(False)
    writer.add_chat_template(template)
