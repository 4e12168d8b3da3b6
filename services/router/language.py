"""Which script a text is written in, as a hint at its language. Pure."""

from collections import Counter
from typing import Final

from localcode.inference.v1 import inference_pb2 as pb

_SCRIPTS: Final = (
    (0x0370, 0x03FF, "el"), (0x0400, 0x052F, "ru"), (0x0590, 0x05FF, "he"), (0x0600, 0x06FF, "ar"),
    (0x0900, 0x097F, "hi"), (0x0E00, 0x0E7F, "th"), (0x3040, 0x30FF, "ja"), (0x4E00, 0x9FFF, "zh"),
    (0xAC00, 0xD7AF, "ko"),
)  # fmt: skip
_SAMPLE: Final = 2000


def prompt_language(chat: pb.ChatPrompt, *, least_share: float) -> str:
    """The language of the last message of a user, as far as its script tells it; empty for Latin letters.

    At least `least_share` of the letters must be of that script.
    """
    last = next((message for message in reversed(chat.messages) if message.role == pb.ROLE_USER), None)
    text = "".join(part.text for part in last.content)[:_SAMPLE] if last else ""
    letters = [_language(ord(char)) for char in text if char.isalpha()]
    counts = Counter(language for language in letters if language)
    if counts["ja"] and counts["ja"] + counts["zh"] >= least_share * len(letters):  # kana stand among Chinese signs
        return "ja"
    language, count = counts.most_common(1)[0] if counts else ("", 0)
    return language if count >= least_share * len(letters) else ""


def _language(code: int) -> str:
    return next((language for first, last, language in _SCRIPTS if first <= code <= last), "")
