"""Says how to build llama.cpp for this machine. Runs before anything is installed: standard library only.

`python -m cli.accel auto` prints CMAKE_ARGS to the output stream and the device to the error stream.
"""

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

KINDS = ("auto", "cpu", "cuda", "metal", "vulkan")
_CUDA_COMPILER = Path("/usr/local/cuda/bin/nvcc")
_COMPILER_PACKAGES = {
    "apt-get": "apt-get install -y build-essential",
    "dnf": "dnf install -y gcc gcc-c++ make",
    "zypper": "zypper install -y gcc gcc-c++ make",
    "pacman": "pacman -S --needed base-devel",
    "apk": "apk add build-base linux-headers",
}


class NotPossible(Exception):
    """This machine can't build what was asked for; the message says the remedy."""


@dataclass(frozen=True)
class Build:
    """How to build, and for what."""

    cmake_args: str
    device: str
    note: str = ""


def main(arguments: list[str]) -> int:
    """Prints how to build for the kind asked for; 1 if it can't be done."""
    kind = arguments[0] if arguments else "auto"
    try:
        check_compiler()
        build = choose_build(kind)
    except NotPossible as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    if build.note:
        sys.stderr.write(f"{build.note}\n")
    sys.stderr.write(f"Building llama.cpp for: {build.device}\n")
    sys.stdout.write(build.cmake_args + "\n")
    return 0


def choose_build(kind: str) -> Build:
    """Chooses the build; `auto` takes the best that is there and falls back to the processor."""
    if kind not in KINDS:
        raise NotPossible(f"ACCEL={kind} is unknown; it must be one of {', '.join(KINDS)}.")
    if kind != "auto":
        return _BUILDERS[kind]()
    note = ""
    for candidate in _auto_order():
        try:
            return _BUILDERS[candidate]()
        except NotPossible as error:
            note = f"Not using {candidate}: {error}"
    build = _cpu()
    return Build(build.cmake_args, build.device, note)


def check_compiler() -> None:
    """Raises an error with the exact install line where no C and C++ compiler is installed."""
    if not has_compiler():
        raise NotPossible(f"no C/C++ compiler is installed. Install one: {compiler_install_line()}")


def has_compiler() -> bool:
    """Whether C and C++ can be compiled."""
    if platform.system() == "Darwin":  # /usr/bin/cc exists there also without the developer tools
        return _output("xcode-select", "-p") is not None
    return _any_program("cc", "gcc", "clang") and _any_program("c++", "g++", "clang++")


def compiler_install_line() -> str:
    """The command that installs a compiler here."""
    if platform.system() == "Darwin":
        return "xcode-select --install"
    line = next((line for program, line in _COMPILER_PACKAGES.items() if shutil.which(program)), None)
    return as_root(line) if line else "the packages of gcc and g++ of your system"


def package_install_line(package: str) -> str:
    """The command that installs a package that is called the same everywhere."""
    if platform.system() == "Darwin":
        return f"brew install {package}"
    installers = {"apt-get": "install -y", "dnf": "install -y", "zypper": "install -y", "pacman": "-S", "apk": "add"}
    found = next(((name, verb) for name, verb in installers.items() if shutil.which(name)), ("apt-get", "install -y"))
    return as_root(f"{found[0]} {found[1]} {package}")


def as_root(line: str) -> str:
    """Puts `sudo` before a command unless this is root already."""
    return line if os.geteuid() == 0 else f"sudo {line}"


def _auto_order() -> list[str]:
    if platform.system() == "Darwin":
        return ["metal"]
    return [kind for kind, program in (("cuda", "nvidia-smi"), ("vulkan", "vulkaninfo")) if shutil.which(program)]


def _cpu() -> Build:
    arguments = "-DGGML_METAL=OFF" if platform.system() == "Darwin" else "-DGGML_NATIVE=ON"
    return Build(arguments, f"the processor ({platform.machine()})")


def _cuda() -> Build:
    names = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    if not names:
        raise NotPossible("no NVIDIA GPU answers; `nvidia-smi` must list one. Install its driver.")
    if shutil.which("nvcc"):
        compiler = ""
    elif _CUDA_COMPILER.is_file():
        compiler = f" -DCMAKE_CUDA_COMPILER={_CUDA_COMPILER}"
    else:
        raise NotPossible(
            f"{names.splitlines()[0]} is here, but not the CUDA compiler nvcc. Install the toolkit: "
            f"{package_install_line('nvidia-cuda-toolkit')}"
        )
    return Build(f"-DGGML_CUDA=ON{compiler}", f"CUDA ({', '.join(names.splitlines())})")


def _metal() -> Build:
    if (platform.system(), platform.machine()) != ("Darwin", "arm64"):
        raise NotPossible("Metal needs a Mac with Apple silicon; use ACCEL=auto.")
    return Build("-DGGML_METAL=ON", "Metal (Apple silicon)")


def _vulkan() -> Build:
    summary = _output("vulkaninfo", "--summary")
    if summary is None:
        raise NotPossible(f"no Vulkan driver answers. Install one, and {package_install_line('vulkan-tools')}")
    if "llvmpipe" in vulkan_device(summary):
        raise NotPossible("its only Vulkan device is the processor itself (llvmpipe).")
    if not shutil.which("glslc"):
        raise NotPossible(f"the shader compiler glslc is missing. Install it: {package_install_line('glslc')}")
    return Build("-DGGML_VULKAN=ON", f"Vulkan ({vulkan_device(summary)})")


def vulkan_device(summary: str) -> str:
    """The first device that `vulkaninfo --summary` names."""
    names = [line.partition("=")[2].strip() for line in summary.splitlines() if "deviceName" in line]
    return names[0] if names else "unknown device"


_BUILDERS = {"cpu": _cpu, "cuda": _cuda, "metal": _metal, "vulkan": _vulkan}


def _any_program(*names: str) -> bool:
    return any(shutil.which(name) for name in names)


def _output(*command: str) -> str | None:
    """What a program prints; nothing where it is missing or fails."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
