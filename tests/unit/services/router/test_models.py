import pytest

from services.router.models import Defaults, Model, configured_models, default_model, merge, named
from services.shared.errors import ModelNotFound, NoWorker

CODER, SMALL = Model("coder", ("default", "gpt-4o")), Model("small")
KNOWN = (CODER, SMALL)


def test_a_model_is_found_by_name_and_by_alias() -> None:
    assert named("small", KNOWN) == "small"
    assert named("gpt-4o", KNOWN) == "coder"


def test_a_name_wins_over_another_models_alias() -> None:
    assert named("small", (Model("coder", ("small",)), SMALL)) == "small"


def test_an_unknown_model_is_refused_and_the_known_ones_named() -> None:
    with pytest.raises(ModelNotFound, match=r"'gpt-5'.*coder, small") as refusal:
        named("gpt-5", KNOWN)
    assert refusal.value.param == "model"


def test_the_default_is_the_configured_one_or_the_first() -> None:
    assert default_model(KNOWN, Defaults("small")) == "small"
    assert default_model(KNOWN, Defaults("default")) == "coder"
    assert default_model(KNOWN, Defaults()) == "coder"


def test_a_default_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ModelNotFound, match="nowhere"):
        default_model(KNOWN, Defaults("nowhere"))


def test_without_any_model_there_is_no_worker() -> None:
    with pytest.raises(NoWorker) as refusal:
        default_model((), Defaults())
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
