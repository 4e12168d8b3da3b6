import pytest

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import InvalidRequest
from services.worker.speculation.loading import vocabulary_difference
from services.worker.speculation.options import SpeculationOptions, merge_options

DEFAULTS = SpeculationOptions("auto", 16)


def test_a_request_that_says_nothing_gets_the_defaults() -> None:
    assert merge_options(pb.Speculation(), DEFAULTS, has_draft_model=False) == DEFAULTS


def test_a_request_chooses_the_kind_and_lowers_the_length() -> None:
    asked = pb.Speculation(kind=pb.SPECULATION_KIND_LOOKUP, max_tokens=4)
    assert merge_options(asked, DEFAULTS, has_draft_model=False) == SpeculationOptions("lookup", 4)


def test_a_request_that_must_reproduce_is_guessed_for_only_if_it_says_how() -> None:
    none = merge_options(pb.Speculation(max_tokens=4), DEFAULTS, has_draft_model=False, must_reproduce=True)
    assert none == SpeculationOptions("none", 4)
    asked = pb.Speculation(kind=pb.SPECULATION_KIND_LOOKUP)
    assert merge_options(asked, DEFAULTS, has_draft_model=False, must_reproduce=True).allows_lookup


def test_a_request_cannot_raise_the_length() -> None:
    assert merge_options(pb.Speculation(max_tokens=60), DEFAULTS, has_draft_model=False).max_tokens == 16


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        (pb.Speculation(kind=pb.SPECULATION_KIND_DRAFT), "speculative.kind"),
        (pb.Speculation(max_tokens=0), "speculative.max_tokens"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(asked: pb.Speculation, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        merge_options(asked, DEFAULTS, has_draft_model=False)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("kind", "lookup", "draft"),
    [("auto", True, True), ("none", False, False), ("lookup", True, False), ("draft", False, True)],
)
def test_each_kind_allows_what_it_names(kind, lookup: bool, draft: bool) -> None:
    options = SpeculationOptions(kind, 4)
    assert (options.allows_lookup, options.allows_draft) == (lookup, draft)


class Words:
    def __init__(self, words: list[str]) -> None:
        self._words = words
        self.vocab_size = len(words)

    def token_text(self, token: int) -> str:
        return self._words[token]


def test_vocabularies_may_differ_in_padding_only() -> None:
    words = [f"w{n}" for n in range(600)]
    assert vocabulary_difference(Words(words), Words([*words, "[PAD600]"])) == ""
    assert "token 1 " in vocabulary_difference(Words(["a", "b"]), Words(["a", "c"]))
    assert "600 and 2 tokens" in vocabulary_difference(Words(words), Words(["w0", "w1"]))
