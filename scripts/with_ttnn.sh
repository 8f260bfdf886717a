#!/bin/sh
# Run a command with another version of TT-NN than the installed one: sh scripts/with_ttnn.sh 0.80.0 .venv/bin/python -m pytest
#
# That version is kept in a folder of the virtual environment, and put in front of all others by PYTHONPATH. TT-NN takes
# itself for a checkout of tt-metal, and looks for its files elsewhere, unless a folder above it is called site-packages.
set -eu

version=$1
shift
venv=$(cd -- "${TTBERT_VENV:-.venv}" && pwd -P)
folder=$venv/ttnn-$version

if [ ! -d "$folder" ]; then
    "$venv/bin/python" -m pip install --disable-pip-version-check --quiet --no-deps \
        --target "$folder.new/site-packages" "ttnn==$version"
    mv "$folder.new" "$folder"
fi
PYTHONPATH=$folder/site-packages exec "$@"
