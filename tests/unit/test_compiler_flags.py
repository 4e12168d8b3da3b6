"""What llama.cpp is compiled with."""

import platform
import subprocess
from pathlib import Path

_HEADER = Path(__file__).parents[2] / "deploy/amx_tile_config.h"
_PROGRAM = """\
#include <immintrin.h>
void configure(void) {
    alignas(64) unsigned char config[64] = {};
    config[0] = 1;
    config[63] = 77;
    _tile_loadconfig(config);
}
"""


def test_the_last_byte_of_a_tile_configuration_is_written_before_it_is_loaded() -> None:
    """GCC 12, Debian 12's compiler, drops it without the header."""
    if platform.machine() not in ("x86_64", "AMD64"):
        assert _compiled("int nothing;") == ""  # the header has nothing to say there
        return
    before_loading = _compiled(_PROGRAM, "-mamx-tile").split("ldtilecfg")[0]
    assert "$77" in before_loading


def _compiled(program: str, *flags: str) -> str:
    command = ["c++", "-x", "c++", "-O2", *flags, "-include", str(_HEADER), "-S", "-o", "-", "-"]
    assembly = subprocess.run(command, input=program, capture_output=True, text=True, check=True).stdout
    return assembly if flags else ""
