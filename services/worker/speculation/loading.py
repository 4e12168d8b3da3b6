"""Loads the model that drafts, and makes sure that it speaks of the same tokens."""

from functools import partial
from typing import Final, Protocol

from services.worker.compute_lock import ComputeLock
from services.worker.llama import LlamaContext, LlamaModel, LoadFailed
from services.worker.passing_thread import in_passing_thread
from services.worker.settings import WorkerSettings
from services.worker.speculation.draft_model import DraftModel

_MOST_PADDING: Final = 512  # models of one family round the size of their vocabulary differently


class Vocabulary(Protocol):
    """The tokens of a model (`LlamaModel`)."""

    @property
    def vocab_size(self) -> int:
        """How many there are."""
        ...

    def token_text(self, token: int) -> str:
        """The text of one."""
        ...


def load_draft_model(
    settings: WorkerSettings, target: LlamaModel, lock: ComputeLock, *, cells: int, threads: int
) -> DraftModel | None:
    """Loads the draft model that the settings name, or raises `LoadFailed` if it can't draft for the target."""
    path = settings.draft_path
    if path is None or settings.speculation in ("none", "lookup"):
        return None
    if not path.is_file():
        raise LoadFailed(f"The draft model's file {path} is missing; `localcode models pull` fetches it.")
    if not target.forks_at_any_token:
        raise LoadFailed(f"{settings.name} can't take tokens back, so nothing can be drafted for it; remove `draft`.")
    make_model = partial(LlamaModel, path, gpu_layers=settings.gpu_layers, mmap=settings.mmap, mlock=settings.mlock)
    model = in_passing_thread(make_model)
    if not model.forks_at_any_token:
        raise LoadFailed(f"The draft model {path} can't take tokens back; choose another one.")
    if difference := vocabulary_difference(target, model):
        raise LoadFailed(f"{path} can't draft for {settings.name}: {difference}")
    context = LlamaContext(
        model, cells=cells, sequences=settings.slots, batch_tokens=settings.batch_tokens, threads=threads,
        type_k=settings.cache_type_k, type_v=settings.cache_type_v,
    )  # fmt: skip
    return DraftModel(
        context, lock, sequences=settings.slots, cells=cells, batch_tokens=settings.batch_tokens,
        vocab_size=min(target.vocab_size, model.vocab_size),
    )  # fmt: skip


def vocabulary_difference(target: Vocabulary, draft: Vocabulary) -> str:
    """Says where the token lists of two models differ; empty if they are the same but for padding at the end."""
    sizes = target.vocab_size, draft.vocab_size
    if abs(sizes[0] - sizes[1]) > _MOST_PADDING:
        return f"their vocabularies have {sizes[0]} and {sizes[1]} tokens."
    for token in range(min(sizes)):
        texts = target.token_text(token), draft.token_text(token)
        if texts[0] != texts[1]:
            return f"token {token} is {texts[0]!r} for one and {texts[1]!r} for the other."
    return ""
