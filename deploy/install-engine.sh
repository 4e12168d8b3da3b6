#!/bin/sh
# Builds llama.cpp for this machine and installs it into a virtual environment; `make run` calls it.
#   install-engine.sh VENV auto|cpu|cuda|metal|vulkan
# Ends well without a compiler too: then only upstream models can be served.
set -eu
venv=$1 kind=$2
stamp=$venv/.engine lock=requirements/worker.lock flags=deploy/amx_tile_config.h

is_current() { # the same kind was installed since the lock file and the compiler's flags changed
    [ "$(cat "$stamp" 2>/dev/null)" = "$kind" ] && [ -z "$(find "$lock" "$flags" -newer "$stamp")" ]
}

install() {
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --root-user-action=ignore "$@"
}

if is_current; then exit 0; fi

if ! cmake_args=$("$venv/bin/python" -m cli.accel "$kind"); then
    case $kind in
    auto | cpu) echo "Going on without local models; run this again once a compiler is installed." >&2; exit 0 ;;
    *) exit 1 ;;
    esac
fi

cache= # the one for the processor is what pip's settings name
case $cmake_args in
*CUDA=ON* | *VULKAN=ON* | *METAL=ON*) cache="--cache-dir=${PIP_CACHE_DIR:-$venv/pip-cache}-$kind" ;;
esac
echo "This takes 5 to 11 minutes the first time." >&2
rm -f "$stamp"
# One that is there may be of another kind, or compiled with other flags; it stays until the new one is built.
CMAKE_ARGS=$cmake_args install ${cache:+"$cache"} --force-reinstall --no-deps --require-hashes -r requirements/engine.lock
install --require-hashes -r "$lock"
echo "$kind" >"$stamp"
