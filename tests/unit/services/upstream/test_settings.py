import pytest
from pydantic import SecretStr

from services.shared.settings import ConfigurationError, load_settings
from services.upstream.settings import PLACEHOLDER_KEY, UpstreamSettings, api_key

GLM = UpstreamSettings(name="glm-4.7")
OTHER = UpstreamSettings(name="other", base_url="http://127.0.0.1:8000/v1")  # type: ignore[arg-type]


def load(**values: object) -> UpstreamSettings:
    return load_settings(UpstreamSettings, "models", "m", document={"models": {"m": {"name": "m", **values}}})


def test_the_defaults_reach_glm_with_its_key() -> None:
    assert GLM.remote_model == "glm-4.7"
    assert str(GLM.base_url) == "https://api.z.ai/api/coding/paas/v4"
    assert api_key(GLM, {"LOCALCODE_GLM_API_KEY": "secret\n"}) == SecretStr("secret")


def test_without_a_key_a_placeholder_is_sent() -> None:
    assert api_key(GLM, {}) == SecretStr(PLACEHOLDER_KEY)


def test_the_key_of_glm_is_never_sent_elsewhere_unasked() -> None:
    assert api_key(OTHER, {"LOCALCODE_GLM_API_KEY": "secret", "": "odd"}) != SecretStr("secret")


def test_a_named_variable_holds_the_key() -> None:
    settings = OTHER.model_copy(update={"api_key_variable": "MY_KEY"})
    assert api_key(settings, {"MY_KEY": "mine"}) == SecretStr("mine")


def test_a_key_that_no_header_can_hold_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigurationError, match="LOCALCODE_GLM_API_KEY") as refused:
        api_key(GLM, {"LOCALCODE_GLM_API_KEY": "geheim-ß"})
    assert "geheim" not in str(refused.value)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"base_url": "ftp://host/v1"}, "base_url"),
        ({"base_url": "https://user:word@host/v1"}, "base_url"),
        ({"max_concurrent": 0}, "max_concurrent"),
        ({"idle_timeout_seconds": 0}, "idle_timeout_seconds"),
        ({"context_lenght": 5}, "context_lenght"),
        ({"kind": "llama"}, "kind"),
        ({"name": ""}, "name"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(values: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        load(**values)


def test_secret_headers_do_not_show() -> None:
    assert "hidden" not in repr(load(headers={"x-token": "hidden"}))


def test_variables_win_over_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALCODE_UPSTREAM_MODEL", "from-environment")
    assert load(model="from-table").remote_model == "from-environment"
