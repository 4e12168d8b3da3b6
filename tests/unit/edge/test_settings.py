import pytest

from edge.settings import EdgeSettings
from services.shared.settings import ConfigurationError, load_settings


def test_the_defaults_listen_on_loopback_only() -> None:
    settings = load_settings(EdgeSettings, "edge", document={})
    assert (settings.host, settings.port, settings.api_keys, settings.cors_origins) == ("127.0.0.1", 4242, (), ())


def test_keys_come_from_a_list_or_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"edge": {"api_keys": ["sk-a", "sk-b"]}}
    settings = load_settings(EdgeSettings, "edge", document=table)
    assert [key.get_secret_value() for key in settings.api_keys] == ["sk-a", "sk-b"]
    monkeypatch.setenv("LOCALCODE_EDGE_API_KEYS", "sk-c, sk-d,")
    settings = load_settings(EdgeSettings, "edge", document=table)
    assert [key.get_secret_value() for key in settings.api_keys] == ["sk-c", "sk-d"]
    assert "sk-c" not in repr(settings)


def test_a_wrong_port_names_the_setting() -> None:
    with pytest.raises(ConfigurationError, match="LOCALCODE_EDGE_PORT"):
        load_settings(EdgeSettings, "edge", document={"edge": {"port": 70000}})
