"""Every call of llama.cpp for loading, tokenizing and computing (sampling: `sampling.py`)."""

import ctypes
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from services.worker.cost import StepShape
from services.worker.kv_state import KvState
from services.worker.settings import CacheType, MetadataValue, NumaStrategy

_log = logging.getLogger(__name__)
_GGML_TYPE: Final[dict[CacheType, int]] = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "bf16": 30,
}  # fmt: skip
_NUMA_STRATEGY: Final[dict[NumaStrategy, int]] = {
    "distribute": llama_cpp.GGML_NUMA_STRATEGY_DISTRIBUTE,
    "isolate": llama_cpp.GGML_NUMA_STRATEGY_ISOLATE,
    "numactl": llama_cpp.GGML_NUMA_STRATEGY_NUMACTL,
}
_LOG_LEVELS: Final = {2: logging.DEBUG, 3: logging.WARNING, 4: logging.ERROR}
_EXPECTED_WARNINGS: Final = (
    "possible training context overflow",  # the pool is larger than one request's context on purpose
    "control-looking token",  # Qwen's vocabulary; llama.cpp overrides its type, which is right
)


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _forward_log(level: int, text: bytes, _user_data: ctypes.c_void_p) -> None:
    message = text.decode(errors="replace").strip()
    if not message or level not in _LOG_LEVELS:
        return
    is_expected = any(known in message for known in _EXPECTED_WARNINGS)
    _log.log(logging.DEBUG if is_expected else _LOG_LEVELS[level], message)


class LoadFailed(Exception):
    """A model could not be loaded; the message says why and what to do."""


class DecodeFailed(Exception):
    """`llama_decode` failed."""


class NoFreeCell(DecodeFailed):
    """`llama_decode` found no room in the KV cache."""


@dataclass(frozen=True)
class Row:
    """Consecutive tokens of one sequence in a batch; the logits of the last `output_count` of them are wanted."""

    sequence_id: int
    position: int
    tokens: Sequence[int]
    output_count: int

    @property
    def shape(self) -> StepShape:
        """What it adds to a step."""
        return StepShape.of_row(self.position, len(self.tokens), self.output_count)


def initialise(numa: NumaStrategy = "none") -> None:
    """Prepares llama.cpp once a process and sends its log to ours."""
    llama_cpp.llama_log_set(_forward_log, ctypes.c_void_p(0))
    _load_backends()
    llama_cpp.llama_backend_init()
    if numa != "none":
        llama_cpp.llama_numa_init(_NUMA_STRATEGY[numa])


def _load_backends() -> None:
    """Loads the backends of a build that keeps each in a library of its own (`GGML_BACKEND_DL`).

    Other builds have theirs linked in, and registered already.
    """
    package = Path(llama_cpp.__file__).parent
    # Symbols are looked up through libllama: a wheel holds several copies of libggml, and only the one it uses counts.
    library = llama_cpp.llama_cpp._lib
    library.ggml_backend_reg_count.restype = ctypes.c_size_t
    for folder in (package / "lib", package.parent / "bin"):  # llama.cpp installs such libraries as programs
        if library.ggml_backend_reg_count() == 0:
            library.ggml_backend_load_all_from_path(str(folder).encode())


def llama_version() -> str:
    """Which llama.cpp computes, as its Python package names it."""
    return str(llama_cpp.__version__)


class LlamaModel:
    """Weights and vocabulary of one GGUF file."""

    def __init__(
        self, path: Path, *, gpu_layers: int, mmap: bool, mlock: bool,
        overrides: Mapping[str, MetadataValue] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        params.load_mode = _load_mode(mmap=mmap, mlock=mlock)
        if overrides:
            params.kv_overrides = _metadata_overrides(overrides)
        self.handle = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self.handle:
            raise LoadFailed(f"{path} can't be loaded; the log says why. Is it a complete GGUF file?")
        self.path = path
        self.vocab = llama_cpp.llama_model_get_vocab(self.handle)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(self.vocab)
        self._pieces: dict[int, bytes] = {}
        # Read now: going through a vocabulary of 150,000 would take a tenth of a second from the first answer.
        self.end_tokens = frozenset(i for i in range(self.vocab_size) if llama_cpp.llama_vocab_is_eog(self.vocab, i))
        """Tokens that end a generation."""
        marked = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
        texts = map(self.token_text, self._tokens_with(marked))
        self.special_tokens = frozenset(text for text in texts if text)
        """Texts that the tokenizer turns into one special token."""

    def close(self) -> None:
        """Frees the weights."""
        llama_cpp.llama_model_free(self.handle)

    @property
    def trained_context(self) -> int:
        """Most tokens that the model was trained for."""
        return int(llama_cpp.llama_model_n_ctx_train(self.handle))

    @property
    def size_bytes(self) -> int:
        """Size of all tensors."""
        return int(llama_cpp.llama_model_size(self.handle))

    @property
    def parameter_count(self) -> int:
        """Parameters of the model."""
        return int(llama_cpp.llama_model_n_params(self.handle))

    @property
    def forks_at_any_token(self) -> bool:
        """Whether the state of any beginning of a sequence can be shared: there is no recurrent state."""
        return not (llama_cpp.llama_model_is_recurrent(self.handle) or llama_cpp.llama_model_is_hybrid(self.handle))

    @property
    def window(self) -> int:
        """Tokens that layers with a sliding window look back; 0 if there are none."""
        return int(llama_cpp.llama_model_n_swa(self.handle))

    @property
    def chat_template(self) -> str | None:
        """The chat template that the file brings."""
        template = llama_cpp.llama_model_chat_template(self.handle, None)
        return template.decode() if template else None

    def metadata(self, key: str) -> str | None:
        """Reads one value of the file's metadata as text."""
        buffer = ctypes.create_string_buffer(1024)
        length = llama_cpp.llama_model_meta_val_str(self.handle, key.encode(), buffer, len(buffer))
        return buffer.value.decode(errors="replace") if length >= 0 else None

    def kv_bytes_per_cell(self, type_k: CacheType, type_v: CacheType) -> int:
        """Estimates what one token's keys and values take, over all layers."""
        heads = int(llama_cpp.llama_model_n_head_kv(self.handle))
        all_heads = max(1, int(llama_cpp.llama_model_n_head(self.handle)))
        architecture = self.metadata("general.architecture") or ""
        size = int(llama_cpp.llama_model_n_embd(self.handle)) // all_heads
        key_size = int(self.metadata(f"{architecture}.attention.key_length") or size)
        value_size = int(self.metadata(f"{architecture}.attention.value_length") or size)
        per_layer = heads * (key_size * _bytes_per_value(type_k) + value_size * _bytes_per_value(type_v))
        return int(per_layer * int(llama_cpp.llama_model_n_layer(self.handle)))

    @property
    def bos_text(self) -> str:
        """Text of the token that begins a sequence, or nothing."""
        return self.token_text(llama_cpp.llama_vocab_bos(self.vocab))

    @property
    def eos_text(self) -> str:
        """Text of the token that ends a sequence, or nothing."""
        return self.token_text(llama_cpp.llama_vocab_eos(self.vocab))

    @property
    def adds_bos(self) -> bool:
        """Whether prompts begin with the token that begins a sequence."""
        return bool(llama_cpp.llama_vocab_get_add_bos(self.vocab))

    @property
    def bos(self) -> int:
        """The token that begins a sequence, or -1."""
        return int(llama_cpp.llama_vocab_bos(self.vocab))

    def token_text(self, token: int) -> str:
        """The vocabulary's entry of a token (for special tokens, what a template writes)."""
        if token < 0:
            return ""
        text = llama_cpp.llama_vocab_get_text(self.vocab, token)
        return text.decode(errors="replace") if text else ""

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Turns text into token ids."""
        data = text.encode()
        room = len(data) + 8
        while True:
            buffer = (llama_cpp.llama_token * room)()
            count = llama_cpp.llama_tokenize(self.vocab, data, len(data), buffer, room, add_special, parse_special)
            if count >= 0:
                return list(buffer[:count])
            room = -count

    def _tokens_with(self, attributes: int) -> list[int]:
        return [i for i in range(self.vocab_size) if llama_cpp.llama_vocab_get_attr(self.vocab, i) & attributes]

    def show(self, texts: Collection[str]) -> None:
        """Makes `piece` give the control tokens of these texts as text: answers are parsed by them."""
        for token in self._tokens_with(llama_cpp.LLAMA_TOKEN_ATTR_CONTROL):
            if (text := self.token_text(token)) in texts:
                self._pieces[token] = text.encode()

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for; nothing for control tokens but those that `show` named."""
        known = self._pieces.get(token)
        if known is None:
            known = self._pieces[token] = self._read_piece(token)
        return known

    def _read_piece(self, token: int) -> bytes:
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            length = llama_cpp.llama_token_to_piece(self.vocab, token, buffer, room, 0, False)
            if length >= 0:
                return buffer.raw[:length]
            room = -length


class LlamaContext:
    """The KV cache and compute buffers of one model. Only the engine thread may use it."""

    def __init__(
        self, model: LlamaModel, *, cells: int, sequences: int, batch_tokens: int, threads: int,
        type_k: CacheType, type_v: CacheType, draft_tokens: int = 0,
    ) -> None:  # fmt: skip
        params = llama_cpp.llama_context_default_params()
        ids = KvState.needed_ids(sequences, window=model.window)
        params.n_ctx, params.n_seq_max, params.kv_unified = cells, ids, True
        params.n_batch = params.n_ubatch = batch_tokens
        params.n_outputs_max = ids + draft_tokens  # llama.cpp aborts with fewer
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.type_k, params.type_v = _GGML_TYPE[type_k], _GGML_TYPE[type_v]
        params.swa_full = True
        params.no_perf = True
        self.handle = llama_cpp.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise LoadFailed(f"No memory for {cells} KV cells; set a smaller `context` or `kv_cells`.")
        self.cell_count = int(llama_cpp.llama_n_ctx(self.handle))
        self.kv = KvState(self.handle, sequences=sequences, window=model.window)
        self._vocab_size = model.vocab_size
        self._batch = _Batch(batch_tokens)
        self._logits: NDArray[np.float32] | None = None
        """Of all outputs of the latest step, once asked for."""

    def close(self) -> None:
        """Frees the cache and buffers."""
        llama_cpp.llama_free(self.handle)

    def decode(self, rows: Sequence[Row]) -> list[range]:
        """Computes all rows in one call and returns the output indices of each."""
        self._logits = None
        outputs = self._batch.fill(rows)
        status = llama_cpp.llama_decode(self.handle, self._batch.struct)
        if status == 1:
            raise NoFreeCell("no room in the KV cache")
        if status != 0:
            raise DecodeFailed(f"llama_decode returned {status}")
        return outputs

    def synchronise(self) -> None:
        """Waits until the device has finished."""
        llama_cpp.llama_synchronize(self.handle)

    def logits(self, output: int) -> NDArray[np.float32]:
        """Looks at the logits of an output; valid until the next `decode`. Shape: (vocabulary,)."""
        if self._logits is None:
            self._logits = self._all_logits()
        logits: NDArray[np.float32] = self._logits[output]
        return logits

    def _all_logits(self) -> NDArray[np.float32]:
        """llama.cpp stores them contiguously, in the order of the batch (`llama_get_logits` in llama.h)."""
        pointer = llama_cpp.llama_get_logits_ith(self.handle, self._batch.first_output)
        size = self._batch.output_count * self._vocab_size
        values: NDArray[np.float32] = np.frombuffer(
            (ctypes.c_float * size).from_address(ctypes.addressof(pointer.contents)), np.float32
        )
        return values.reshape(self._batch.output_count, self._vocab_size)

    def clear(self) -> None:
        """Drops all sequences."""
        self.kv.clear()


class _Batch:
    """A `llama_batch` whose arrays are numpy's, so that filling it costs no loop over tokens."""

    def __init__(self, size: int) -> None:
        self._tokens = np.zeros(size, np.int32)
        self._positions = np.zeros(size, np.int32)
        self._sequence_counts = np.ones(size, np.int32)
        self._sequence_ids = np.zeros(size, np.int32)
        self._wants_logits = np.zeros(size, np.int8)
        self.output_count = 0
        self.first_output = 0
        """Where the first token stands whose logits are wanted."""
        first = self._sequence_ids.ctypes.data
        self._sequence_pointers = np.arange(first, first + 4 * size, 4, dtype=np.uintp)
        self.struct = llama_cpp.llama_batch(
            0,
            _pointer(self._tokens, ctypes.c_int32),
            None,
            _pointer(self._positions, ctypes.c_int32),
            _pointer(self._sequence_counts, ctypes.c_int32),
            _pointer(self._sequence_pointers, ctypes.POINTER(ctypes.c_int32)),
            _pointer(self._wants_logits, ctypes.c_int8),
        )

    def fill(self, rows: Sequence[Row]) -> list[range]:
        outputs = []
        end = output_count = 0
        for row in rows:
            start, end = end, end + len(row.tokens)
            self._tokens[start:end] = row.tokens
            self._positions[start:end] = np.arange(row.position, row.position + len(row.tokens))
            self._sequence_ids[start:end] = row.sequence_id
            self._wants_logits[start:end] = 0
            if row.output_count:
                self._wants_logits[end - row.output_count : end] = 1
                if not output_count:
                    self.first_output = end - row.output_count
            outputs.append(range(output_count, output_count + row.output_count))
            output_count += row.output_count
        self.struct.n_tokens, self.output_count = end, output_count
        return outputs


def device_names() -> list[str]:
    """Names the devices that layers can be offloaded to; empty where there is only the CPU."""
    if not llama_cpp.llama_supports_gpu_offload():
        return []
    info = llama_cpp.llama_print_system_info().decode(errors="replace")
    return [name for name in ("CUDA", "Metal", "Vulkan", "ROCm", "SYCL") if name.lower() in info.lower()] or ["GPU"]


def _metadata_overrides(values: Mapping[str, MetadataValue]) -> Any:
    """Makes llama.cpp's list of overrides, which an empty key ends."""
    overrides = (llama_cpp.llama_model_kv_override * (len(values) + 1))()
    for override, (key, value) in zip(overrides, values.items(), strict=False):
        override.key = key.encode()
        if isinstance(value, bool):
            override.tag, override.value.val_bool = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_BOOL, value
        elif isinstance(value, int):
            override.tag, override.value.val_i64 = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_INT, value
        elif isinstance(value, float):
            override.tag, override.value.val_f64 = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_FLOAT, value
        else:
            override.tag, override.value.val_str = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_STR, value.encode()
    return overrides


def _load_mode(*, mmap: bool, mlock: bool) -> int:
    if mmap:
        return int(llama_cpp.LLAMA_LOAD_MODE_MMAP_MLOCK if mlock else llama_cpp.LLAMA_LOAD_MODE_MMAP)
    return int(llama_cpp.LLAMA_LOAD_MODE_MLOCK if mlock else llama_cpp.LLAMA_LOAD_MODE_NONE)


def _bytes_per_value(kind: CacheType) -> float:
    return {"f32": 4, "f16": 2, "bf16": 2, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32,
            "q4_1": 20 / 32, "q4_0": 18 / 32}[kind]  # fmt: skip


def _pointer(array: NDArray[Any], kind: Any) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))
