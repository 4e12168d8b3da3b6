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

# One that is there may be of another kind, or compiled with other flags.
"$venv/bin/python" -m pip uninstall --quiet --yes --root-user-action=ignore llama-cpp-python
cache=
case $cmake_args in
*CUDA=ON* | *VULKAN=ON*) cache="--cache-dir=$venv/pip-cache-$kind" ;; # pip's own holds one for the processor
esac
echo "This takes 5 to 11 minutes the first time." >&2
CMAKE_ARGS=$cmake_args install ${cache:+"$cache"} --require-hashes -r "$lock"
echo "$kind" >"$stamp"
