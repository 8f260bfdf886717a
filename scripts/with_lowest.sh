#!/bin/sh
# Run a command with the lowest versions that setup.cfg allows: sh scripts/with_lowest.sh .venv/bin/python -m pytest tests/test_source.py
#
# All of them are installed at once, so that they also agree with each other; PyTorch and TT-NN, which are large, stay as they
# are. They are kept in a folder of the virtual environment, and put in front of all others by PYTHONPATH.
set -eu

cd -- "$(dirname -- "$0")/.."
venv=$(cd -- "${TTBERT_VENV:-.venv}" && pwd -P)
lowest=$("$venv/bin/python" -c '
import configparser, re
config = configparser.ConfigParser()
config.read("setup.cfg")
for line in config["options"]["install_requires"].splitlines():
    bound = re.match("([a-z0-9-]+)>=([0-9.]+)[^;]*(.*)", line)
    if bound and bound[1] not in ("torch", "ttnn"):
        print(bound[1] + "==" + bound[2] + bound[3])
')
folder=$venv/lowest-$(printf %s "$lowest" | cksum | cut -d' ' -f1)

if [ ! -d "$folder" ]; then
    # The tests' S3 server needs a boto3 that agrees with botocore. No transformers does with the lowest safetensors, so
    # test files that compare with it cannot be run so.
    printf '%s\n' "$lowest" boto3 >"$venv/lowest.txt"
    "$venv/bin/python" -m pip install --disable-pip-version-check --quiet --target "$folder.new" --requirement "$venv/lowest.txt"
    mv "$folder.new" "$folder"
fi
# A plugin of pytest that came with a newer version is still named in the environment, and is not there to be loaded.
PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 PYTHONPATH=$folder exec "$@"
