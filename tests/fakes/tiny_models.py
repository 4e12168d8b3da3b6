"""Writes tiny models with random weights in architectures whose memory is not a plain KV cache."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import gguf
import numpy as np
from numpy.typing import NDArray

from tests.fakes.byte_vocabulary import END_OF_TEXT, TURN_END, byte_vocabulary
from tests.fakes.chat_template import HERMES_TEMPLATE

_WIDTH: Final = 64
_FEED_FORWARD: Final = 128
_HEADS: Final = 2
_HEAD_SIZE: Final = 32
_STATE: Final = 8
_CONV: Final = 4
_RANK: Final = 4
_INNER: Final = 2 * _WIDTH

Random = Callable[..., NDArray[np.float32]]


def write_windowed_model(path: Path, *, window: int, layers: int = 6) -> Path:
    """Writes a Gemma 3 in small: five layers look back over a window, the sixth over everything."""
    writer, random = _begin(path, "gemma3", layers)
    writer.add_feed_forward_length(_FEED_FORWARD)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(1)
    writer.add_key_length(_HEAD_SIZE)
    writer.add_value_length(_HEAD_SIZE)
    writer.add_sliding_window(window)
    writer.add_rope_freq_base(1e6)
    for layer in range(layers):
        tensors = {
            **{f"{name}_norm": np.ones(_WIDTH, np.float32) for name in ("attn", "post_attention", "ffn", "post_ffw")},
            **{f"attn_{name}_norm": np.ones(_HEAD_SIZE, np.float32) for name in "qk"},
            **_attention(random),
            **_feed_forward(random),
        }
        _add_layer(writer, layer, tensors)
    return _finish(writer, path)


def write_recurrent_model(path: Path, *, layers: int = 2) -> Path:
    """Writes a Mamba in small: a state of fixed size instead of a KV cache."""
    writer, random = _begin(path, "mamba", layers)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    _add_state_sizes(writer)
    for layer in range(layers):
        _add_layer(writer, layer, {"attn_norm": np.ones(_WIDTH, np.float32), **_state_space(random)})
        _add_state_biases(writer, random, layer)
    return _finish(writer, path)


def write_hybrid_model(path: Path, *, layers: int = 4) -> Path:
    """Writes a Jamba in small: every other layer has a state of fixed size, the others a KV cache."""
    writer, random = _begin(path, "jamba", layers)
    writer.add_feed_forward_length(_FEED_FORWARD)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv([layer % 2 for layer in range(layers)])
    _add_state_sizes(writer)
    for layer in range(layers):
        is_attending = bool(layer % 2)
        norms = {f"{name}_norm": np.ones(_WIDTH, np.float32) for name in ("attn", "ffn")}
        mixing = _attention(random) if is_attending else {**_state_space(random), **_state_norms()}
        _add_layer(writer, layer, {**norms, **mixing, **_feed_forward(random)})
        if not is_attending:
            _add_state_biases(writer, random, layer)
    return _finish(writer, path)


def _add_state_sizes(writer: gguf.GGUFWriter) -> None:
    writer.add_ssm_conv_kernel(_CONV)
    writer.add_ssm_inner_size(_INNER)
    writer.add_ssm_state_size(_STATE)
    writer.add_ssm_time_step_rank(_RANK)


def _add_state_biases(writer: gguf.GGUFWriter, random: Random, layer: int) -> None:
    writer.add_tensor(f"blk.{layer}.ssm_conv1d.bias", random(_INNER))
    writer.add_tensor(f"blk.{layer}.ssm_dt.bias", random(_INNER))
    writer.add_tensor(f"blk.{layer}.ssm_a", -np.exp(random(_INNER, _STATE)))
    writer.add_tensor(f"blk.{layer}.ssm_d", random(_INNER))


def _state_norms() -> dict[str, NDArray[np.float32]]:
    sizes = {"ssm_dt_norm": _RANK, "ssm_b_norm": _STATE, "ssm_c_norm": _STATE}
    return {name: np.ones(size, np.float32) for name, size in sizes.items()}


def _attention(random: Random) -> dict[str, NDArray[np.float32]]:
    return {
        "attn_q": random(_HEADS * _HEAD_SIZE, _WIDTH),
        "attn_k": random(_HEAD_SIZE, _WIDTH),
        "attn_v": random(_HEAD_SIZE, _WIDTH),
        "attn_output": random(_WIDTH, _HEADS * _HEAD_SIZE),
    }


def _state_space(random: Random) -> dict[str, NDArray[np.float32]]:
    return {
        "ssm_in": random(2 * _INNER, _WIDTH),
        "ssm_conv1d": random(_INNER, _CONV),
        "ssm_x": random(_RANK + 2 * _STATE, _INNER),
        "ssm_dt": random(_INNER, _RANK),
        "ssm_out": random(_WIDTH, _INNER),
    }


def _feed_forward(random: Random) -> dict[str, NDArray[np.float32]]:
    return {
        "ffn_gate": random(_FEED_FORWARD, _WIDTH),
        "ffn_up": random(_FEED_FORWARD, _WIDTH),
        "ffn_down": random(_WIDTH, _FEED_FORWARD),
    }


def _begin(path: Path, architecture: str, layers: int) -> tuple[gguf.GGUFWriter, Random]:
    generator = np.random.default_rng(7)
    writer = gguf.GGUFWriter(path, architecture)
    vocabulary = byte_vocabulary()
    writer.add_vocab_size(len(vocabulary.tokens))
    writer.add_context_length(8192)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(layers)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    writer.add_bos_token_id(END_OF_TEXT)
    writer.add_eos_token_id(TURN_END)
    writer.add_add_bos_token(False)
    writer.add_chat_template(HERMES_TEMPLATE)

    def random(*shape: int) -> NDArray[np.float32]:
        return generator.normal(0, 0.3, shape).astype(np.float32)

    writer.add_tensor("token_embd.weight", random(len(vocabulary.tokens), _WIDTH))
    writer.add_tensor("output_norm.weight", np.ones(_WIDTH, np.float32))
    return writer, random


def _add_layer(writer: gguf.GGUFWriter, layer: int, tensors: dict[str, NDArray[np.float32]]) -> None:
    for name, weights in tensors.items():
        writer.add_tensor(f"blk.{layer}.{name}.weight", weights)


def _finish(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
