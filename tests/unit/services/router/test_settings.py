import pytest

from services.router.models import Defaults
from services.router.settings import RouterSettings
from services.shared.settings import ConfigurationError, load_settings


def test_models_of_classes_are_read_from_the_table() -> None:
    table = {"default_model": "coder", "class_models": {"title": "small"}}
    settings = load_settings(RouterSettings, "router", document={"router": table})
    assert settings.defaults == Defaults("coder", {"title": "small"})


def test_an_unknown_class_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="class_models"):
        load_settings(RouterSettings, "router", document={"router": {"class_models": {"titles": "small"}}})


def test_the_environment_wins_over_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALCODE_ROUTER_CLASS_MODELS", '{"title": "tiny"}')
    settings = load_settings(RouterSettings, "router", document={"router": {"class_models": {"title": "small"}}})
    assert settings.class_models == {"title": "tiny"}
