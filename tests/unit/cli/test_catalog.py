import re

import pytest

from cli.catalog import CATALOG, CatalogModel
from cli.sources import wanted_files


@pytest.mark.parametrize("model", CATALOG.values(), ids=list(CATALOG))
def test_every_entry_is_complete(model: CatalogModel) -> None:
    assert re.fullmatch("[0-9a-f]{64}", model.sha256)
    assert model.size_bytes > 1_000_000
    assert model.context >= 8192
    assert model.file_name.endswith(".gguf")
    assert model.pypi is not None
    assert len(set(model.pypi.packages)) == len(model.pypi.packages)


def test_a_name_of_the_catalogue_means_its_file_in_the_models_directory(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCALCODE_MODELS_DIR", str(tmp_path))
    [file] = wanted_files("qwen2.5-coder-0.5b")
    assert file.path == tmp_path / "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
    assert str(file.hub) == "hf:Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
