#!/bin/sh
# Builds stock.wasm in a working folder, by the commands of README.md.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
wasmill=$(cd "$here/../../.." && pwd)
work=${1:-$wasmill/target/polyglot/python}

mkdir -p "$work"
cd "$work"
rm -rf wit
cp -r "$here"/*.py "$here/requirements.txt" "$here/wit" .
mkdir wit/deps
cp -r "$wasmill/wit" wit/deps/wasmill-plugin

python3 -m venv tools
tools/bin/pip install --quiet --requirement requirements.txt
tools/bin/componentize-py --quiet -d wit -w stock componentize plugin -o stock.wasm
