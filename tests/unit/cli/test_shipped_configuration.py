"""The file that comes with LocalCode: what it says, and what its comments promise."""

import re
from pathlib import Path

import pytest

from cli.catalog import CATALOG
from cli.config import load_configuration
from cli.validate import check_settings
from services.router.routes import RouteSettings
from services.router.settings import RouterSettings
from services.shared.settings import load_document, load_settings

SHIPPED = Path(__file__).parents[3] / "localcode.toml"
# TOML that is commented out: an empty table header or a setting, but no sentence.
_COMMENTED_OUT = re.compile(r"^# (?=\[|[a-z_]+ = )", re.MULTILINE)
_IN_PLACE = {"api_keys = []": 'api_keys = ["key"]', '"redis://..."': '"redis://127.0.0.1"'}


@pytest.fixture
def with_all_settings(tmp_path: Path) -> Path:
    text = _COMMENTED_OUT.sub("", SHIPPED.read_text())
    for example, value in _IN_PLACE.items():
        assert example in text
        text = text.replace(example, value)
    path = tmp_path / "localcode.toml"
    path.write_text(text)
    return path


def test_the_shipped_file_is_what_services_accept() -> None:
    configuration = load_configuration(SHIPPED)
    check_settings(configuration, configuration.models)


def test_everything_that_is_commented_out_works_when_it_is_not(with_all_settings: Path) -> None:
    configuration = load_configuration(with_all_settings)
    check_settings(configuration, configuration.models)
    assert [(model.name, model.kind) for model in configuration.models] == [
        ("coder", "llama"), ("small", "llama"), ("general", "llama"), ("vision", "upstream"), ("glm-4.7", "upstream"),
    ]  # fmt: skip


def test_routes_and_classes_name_models_that_are_there(with_all_settings: Path) -> None:
    document = load_document(with_all_settings)
    names = {model.name for model in load_configuration(with_all_settings).models}
    router = load_settings(RouterSettings, "router", document=document)
    routes = load_settings(RouteSettings, "routes", document=document)
    chains = {name for chain in routes.fallbacks.values() for name in chain}
    named = {*router.class_models.values(), *routes.fallbacks, *chains, *routes.languages.values()}
    assert named | {routes.vision, routes.long_answers} <= names


def test_a_default_that_is_told_is_the_default(with_all_settings: Path) -> None:
    told = load_settings(RouteSettings, "routes", document=load_document(with_all_settings))
    thresholds = ("language_share", "long_answer_tokens", "length_margin", "sooner_seconds")
    assert [getattr(told, name) for name in thresholds] == [getattr(RouteSettings(), name) for name in thresholds]


def test_a_digest_that_is_told_is_that_of_the_file() -> None:
    told = re.findall(r'^(?:# )?source = "([\w.-]+)" +# sha256 ([0-9a-f]{64})$', SHIPPED.read_text(), re.MULTILINE)
    assert dict(told) == {name: CATALOG[name].sha256 for name, _ in told}
    assert len(told) == 3
