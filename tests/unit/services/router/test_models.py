import pytest

from services.router.models import Defaults, Model, configured_models, default_model, merge, resolve
from services.shared.errors import ModelNotFound, NoWorker

CODER, SMALL = Model("coder", ("default", "gpt-4o")), Model("small")
KNOWN = (CODER, SMALL)
BOTH_LIVE = frozenset({"coder", "small"})
TITLES_SMALL = Defaults("coder", {"title": "small"})


def test_a_model_is_found_by_name_and_by_alias() -> None:
    assert resolve("small", "main", KNOWN, Defaults(), BOTH_LIVE) == "small"
    assert resolve("gpt-4o", "main", KNOWN, Defaults(), BOTH_LIVE) == "coder"


def test_a_name_wins_over_another_models_alias() -> None:
    assert resolve("small", "main", (Model("coder", ("small",)), SMALL), Defaults(), BOTH_LIVE) == "small"


def test_an_unknown_model_is_refused_and_the_known_ones_named() -> None:
    with pytest.raises(ModelNotFound, match=r"'gpt-5'.*coder, small") as refusal:
        resolve("gpt-5", "main", KNOWN, Defaults(), BOTH_LIVE)
    assert refusal.value.param == "model"


@pytest.mark.parametrize("requested", ["", "auto"])
def test_without_a_name_the_default_is_taken(requested: str) -> None:
    assert resolve(requested, "main", KNOWN, Defaults("small"), BOTH_LIVE) == "small"
    assert resolve(requested, "main", KNOWN, Defaults("default"), BOTH_LIVE) == "coder"


def test_without_a_default_the_first_model_is_taken() -> None:
    assert resolve("", "main", KNOWN, Defaults(), BOTH_LIVE) == "coder"


def test_a_class_has_its_own_default() -> None:
    assert resolve("auto", "title", KNOWN, TITLES_SMALL, BOTH_LIVE) == "small"
    assert resolve("auto", "main", KNOWN, TITLES_SMALL, BOTH_LIVE) == "coder"


def test_a_named_model_wins_over_the_one_of_the_class() -> None:
    assert resolve("coder", "title", KNOWN, TITLES_SMALL, BOTH_LIVE) == "coder"


def test_a_class_takes_the_default_while_its_own_model_does_not_run() -> None:
    assert resolve("", "title", KNOWN, TITLES_SMALL, frozenset({"coder"})) == "coder"
    assert resolve("", "title", (CODER,), TITLES_SMALL, frozenset({"coder"})) == "coder"


def test_a_default_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ModelNotFound, match="nowhere"):
        default_model(KNOWN, Defaults("nowhere"))


def test_without_any_model_there_is_no_worker() -> None:
    with pytest.raises(NoWorker) as refusal:
        resolve("", "main", (), Defaults(), frozenset())
    assert refusal.value.retry_after_seconds


def test_models_are_read_from_their_tables() -> None:
    document = {
        "models": {
            "coder": {"kind": "llama", "aliases": ["default"], "context": 32768},
            "glm-4.7": {"kind": "upstream", "name": "glm-4.7", "context_length": 131072},
        },
        "router": {"default_model": "coder"},
    }
    assert configured_models(document) == (Model("coder", ("default",), 32768), Model("glm-4.7", (), 131072))
    assert configured_models({}) == ()


def test_what_is_configured_comes_first_and_learns_what_is_registered() -> None:
    merged = merge((Model("b"), Model("a", ("x",))), (Model("c"), Model("a", ("y", "x"), 4096)))
    assert merged == (Model("b"), Model("a", ("x", "y"), 4096), Model("c"))
