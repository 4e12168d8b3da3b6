"""The scripted test models say their scripts in llama.cpp itself, so that tests above may rely on them."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import llama_cpp
import pytest

from tests.fakes.scripted_model import Branch, Script, cut_into_pieces, write_scripted_model
from tests.fakes.scripts import CHAT_SCRIPT, EDIT_PROMPT, FINAL_TEXT, OLD_LINE, TITLE, opencode_script

pytestmark = pytest.mark.integration


class Speaker:
    """Greedy decoding with nothing of LocalCode in it."""

    def __init__(self, model: llama_cpp.llama_model_p, context: llama_cpp.llama_context_p) -> None:
        self._model, self._context = model, context
        self._vocabulary = llama_cpp.llama_model_get_vocab(model)

    def tokens(self, text: str) -> list[int]:
        data = text.encode()
        room = (llama_cpp.llama_token * (len(data) + 8))()
        count = llama_cpp.llama_tokenize(self._vocabulary, data, len(data), room, len(room), False, True)
        assert count >= 0
        return list(room[:count])

    def text(self, tokens: list[int]) -> str:
        return b"".join(map(self._piece, tokens)).decode()

    def _piece(self, token: int) -> bytes:
        room = ctypes.create_string_buffer(4096)
        length = llama_cpp.llama_token_to_piece(self._vocabulary, token, room, len(room), 0, True)
        return room.raw[:length]

    def continue_(self, prompt: str, most: int = 200) -> list[int]:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        sampler = llama_cpp.llama_sampler_init_greedy()
        pending = self.tokens(prompt)
        said: list[int] = []
        while len(said) < most:
            for start in range(0, len(pending), 512):
                chunk = (llama_cpp.llama_token * len(pending[start : start + 512]))(*pending[start : start + 512])
                assert llama_cpp.llama_decode(self._context, llama_cpp.llama_batch_get_one(chunk, len(chunk))) == 0
            token = llama_cpp.llama_sampler_sample(sampler, self._context, -1)
            if llama_cpp.llama_vocab_is_eog(self._vocabulary, token):
                break
            said.append(token)
            pending = [token]
        llama_cpp.llama_sampler_free(sampler)
        return said

    def answer(self, prompt: str, most: int = 200) -> str:
        return self.text(self.continue_(f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n", most))


@contextmanager
def loaded(path: Path) -> Iterator[Speaker]:
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    assert model
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_threads, params.n_threads_batch = 8192, 512, 1, 1
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
    context = llama_cpp.llama_init_from_model(model, params)
    assert context
    try:
        yield Speaker(model, context)
    finally:
        llama_cpp.llama_free(context)
        llama_cpp.llama_model_free(model)


@pytest.fixture(scope="module")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Speaker]:
    with loaded(write_scripted_model(tmp_path_factory.mktemp("model") / "chat.gguf", CHAT_SCRIPT)) as speaker:
        yield speaker


@pytest.mark.parametrize("branch", [branch for branch in CHAT_SCRIPT.branches if not branch.is_endless])
def test_each_branch_is_spoken_to_its_end(speaker: Speaker, branch: Branch) -> None:
    assert speaker.answer(f"Well. {branch.trigger}, will you?") == branch.answer


def test_without_a_trigger_the_default_is_spoken(speaker: Speaker) -> None:
    assert speaker.answer("Hi") == CHAT_SCRIPT.default


def test_the_last_listed_branch_wins_wherever_its_trigger_stands(speaker: Speaker) -> None:
    last, other = CHAT_SCRIPT.branches[-1], CHAT_SCRIPT.branches[0]
    assert speaker.answer(f"{last.trigger} and much later: {other.trigger}") == last.answer


def test_a_trigger_is_found_across_a_long_prompt(speaker: Speaker) -> None:
    branch = CHAT_SCRIPT.branches[0]
    assert speaker.answer(f"{branch.trigger} " + "about the usual things, " * 300) == branch.answer


def test_an_endless_branch_does_not_end(speaker: Speaker) -> None:
    branch = next(branch for branch in CHAT_SCRIPT.branches if branch.is_endless)
    assert speaker.answer(branch.trigger, most=100).count("patient") > 10


@pytest.mark.parametrize("branch", [branch for branch in CHAT_SCRIPT.branches if not branch.is_endless])
def test_an_answer_that_comes_back_has_the_same_tokens(speaker: Speaker, branch: Branch) -> None:
    said = speaker.continue_(branch.trigger)
    assert speaker.tokens(speaker.text(said)) == said


def test_the_opencode_script_walks_through_its_turns(tmp_path: Path) -> None:
    target = tmp_path / "settings.py"
    with loaded(write_scripted_model(tmp_path / "opencode.gguf", opencode_script(target))) as speaker:
        assert str(target) in speaker.answer(EDIT_PROMPT)
        assert '"oldString"' in speaker.answer(f"{EDIT_PROMPT} <tool_response>1: {OLD_LINE}</tool_response>")
        assert speaker.answer(f"{EDIT_PROMPT} 1: {OLD_LINE} Edit applied successfully.") == FINAL_TEXT
        assert speaker.answer(f"You are a title generator. {EDIT_PROMPT}") == TITLE


def test_a_looping_default_does_not_end(tmp_path: Path) -> None:
    with loaded(write_scripted_model(tmp_path / "loop.gguf", Script("over and over again "), loop=True)) as speaker:
        assert speaker.answer("Hi", most=40).count("again") >= 10


def test_the_same_script_gives_the_same_bytes(tmp_path: Path) -> None:
    first = write_scripted_model(tmp_path / "a.gguf", CHAT_SCRIPT).read_bytes()
    assert write_scripted_model(tmp_path / "b.gguf", CHAT_SCRIPT).read_bytes() == first


def test_pieces_are_unique_and_make_up_the_text() -> None:
    taken: set[str] = set()
    text = "one two one two one two three "
    pieces = cut_into_pieces(text, taken)
    assert "".join(pieces) == text
    assert len(set(pieces)) == len(pieces)
