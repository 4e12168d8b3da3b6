"""A small byte-level BPE vocabulary for test models: any text can be written in it, common words in one token."""

from dataclasses import dataclass, field
from typing import Final

from gguf import TokenType

END_OF_TEXT, TURN_START, TURN_END = range(3)
_CONTROL: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_COMMON_WORDS: Final = """\
the to of and a in is for you that or it be are not with this as on use if file by an from can when will your
user do tool should any all code must only command path files name one content call string type description
required parameters properties object number array value function arguments null true false default
directory search line lines text task agent message system result read write edit bash then so have has which
at other more each before after into than its per make first new line output run query pattern match work
never always ensure need please provide example response using these there current result set
"""


@dataclass
class Vocabulary:
    """Tokens of a model, in the order of their ids, as a GGUF file lists them."""

    tokens: list[str] = field(default_factory=list)
    types: list[TokenType] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)

    def add(self, token: str, kind: TokenType) -> int:
        """Appends a token and returns its id."""
        self.tokens.append(token)
        self.types.append(kind)
        return len(self.tokens) - 1

    def texts(self) -> set[str]:
        """Returns what the tokens stand for, as far as they are whole characters."""
        spelled = (token for token, kind in zip(self.tokens, self.types, strict=True) if kind == TokenType.NORMAL)
        return {bytes(map(_BYTE_LETTERS.index, token)).decode(errors="replace") for token in spelled}


def byte_vocabulary() -> Vocabulary:
    """Builds the vocabulary: control tokens, the 256 bytes, and the common words with and without a space before."""
    vocabulary = Vocabulary()
    for token in _CONTROL:
        vocabulary.add(token, TokenType.CONTROL)
    for byte in range(256):
        vocabulary.add(_BYTE_LETTERS[byte], TokenType.NORMAL)
    words = _COMMON_WORDS.split()
    for text in ["  ", "    ", "        ", "\n\n", *words, *(f" {word}" for word in words)]:
        _add_word(vocabulary, _encode(text))
    return vocabulary


def _add_word(vocabulary: Vocabulary, word: str) -> None:
    for end in range(2, len(word) + 1):
        if word[:end] not in vocabulary.tokens:
            vocabulary.merges.append(f"{word[: end - 1]} {word[end - 1]}")
            vocabulary.add(word[:end], TokenType.NORMAL)


def _encode(text: str) -> str:
    return "".join(_BYTE_LETTERS[byte] for byte in text.encode())


def _byte_letters() -> list[str]:
    """Gives every byte a visible letter, as GPT-2's vocabulary does: itself where visible, else one above 255."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in visible else next(spare)) for byte in range(0x100)]


_BYTE_LETTERS: Final = _byte_letters()
