import ast
import subprocess
import sys
from pathlib import Path

import pytest

from cli import accel


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH of our own on a Linux machine."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(accel.platform, "system", lambda: "Linux")
    monkeypatch.setattr(accel.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(accel, "_CUDA_COMPILER", tmp_path / "cuda" / "nvcc")
    return tmp_path


def install(directory: Path, name: str, output: str = "", exit_code: int = 0) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\nprintf '%s\\n' '{output}'\nexit {exit_code}\n")
    path.chmod(0o755)


def test_auto_takes_the_processor_where_nothing_else_is(programs: Path) -> None:
    assert accel.choose_build("auto") == accel.Build("-DGGML_NATIVE=ON", "the processor (x86_64)")


def test_auto_takes_cuda_where_gpu_and_compiler_are(programs: Path) -> None:
    install(programs, "nvidia-smi", "NVIDIA H100")
    install(programs, "nvcc")
    assert accel.choose_build("auto") == accel.Build("-DGGML_CUDA=ON", "CUDA (NVIDIA H100)")


def test_auto_falls_back_and_says_why_where_the_cuda_compiler_is_missing(programs: Path) -> None:
    install(programs, "nvidia-smi", "NVIDIA H100")
    install(programs, "apt-get")
    build = accel.choose_build("auto")
    assert build.cmake_args == "-DGGML_NATIVE=ON"
    assert "not the CUDA compiler nvcc" in build.note
    assert "apt-get install -y nvidia-cuda-toolkit" in build.note


def test_a_cuda_compiler_outside_path_is_named_to_cmake(programs: Path) -> None:
    install(programs, "nvidia-smi", "NVIDIA H100")
    (programs / "cuda").mkdir()
    install(programs / "cuda", "nvcc")
    assert accel.choose_build("cuda").cmake_args == f"-DGGML_CUDA=ON -DCMAKE_CUDA_COMPILER={programs}/cuda/nvcc"


def test_a_driver_that_fails_is_no_gpu(programs: Path) -> None:
    install(programs, "nvidia-smi", "failed", exit_code=9)
    install(programs, "nvcc")
    with pytest.raises(accel.NotPossible, match="no NVIDIA GPU answers"):
        accel.choose_build("cuda")


def test_vulkan_names_its_device(programs: Path) -> None:
    install(programs, "vulkaninfo", "deviceName = Radeon RX")
    install(programs, "glslc")
    assert accel.choose_build("auto") == accel.Build("-DGGML_VULKAN=ON", "Vulkan (Radeon RX)")


def test_a_vulkan_device_made_of_software_is_not_taken(programs: Path) -> None:
    install(programs, "vulkaninfo", "deviceName = llvmpipe (LLVM 17)")
    install(programs, "glslc")
    assert accel.choose_build("auto").cmake_args == "-DGGML_NATIVE=ON"


def test_metal_is_for_macs_only(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(accel.NotPossible, match="Apple silicon"):
        accel.choose_build("metal")
    monkeypatch.setattr(accel.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(accel.platform, "machine", lambda: "arm64")
    assert accel.choose_build("auto").cmake_args == "-DGGML_METAL=ON"
    assert accel.choose_build("cpu").cmake_args == "-DGGML_METAL=OFF"


def test_an_unknown_kind_lists_the_known_ones(programs: Path) -> None:
    with pytest.raises(accel.NotPossible, match="auto, cpu, cuda, metal, vulkan"):
        accel.choose_build("tpu")


@pytest.mark.parametrize(
    ("manager", "line"),
    [
        ("apt-get", "apt-get install -y build-essential"),
        ("dnf", "dnf install -y gcc gcc-c++ make"),
        ("pacman", "pacman -S --needed base-devel"),
    ],
)
def test_without_a_compiler_the_install_line_of_the_system_is_printed(
    programs: Path, capsys: pytest.CaptureFixture[str], manager: str, line: str
) -> None:
    install(programs, manager)
    assert accel.main(["cpu"]) == 1
    assert capsys.readouterr().err.rstrip().endswith(line)


def test_cmake_arguments_alone_go_to_the_output(programs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(programs, "cc")
    install(programs, "c++")
    assert accel.main([]) == 0
    captured = capsys.readouterr()
    assert captured.out == "-DGGML_NATIVE=ON\n"
    assert "the processor" in captured.err


@pytest.mark.parametrize("module", ["accel", "guard"])
def test_it_needs_the_standard_library_alone(module: str) -> None:
    source = Path(accel.__file__).with_name(f"{module}.py").read_text()
    imported = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse(source))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported <= sys.stdlib_module_names


def test_it_runs_without_any_package() -> None:
    root = Path(accel.__file__).parents[1]
    result = subprocess.run(
        [sys.executable, "-S", "-m", "cli.accel", "tpu"], cwd=root, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "must be one of" in result.stderr or "compiler" in result.stderr
