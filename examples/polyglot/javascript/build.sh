#!/bin/sh
# Builds stock.wasm in a working folder, by the commands of README.md.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
wasmill=$(cd "$here/../../.." && pwd)
work=${1:-$wasmill/target/polyglot/javascript}

mkdir -p "$work"
cd "$work"
rm -rf wit
cp -r "$here/stock.js" "$here/package.json" "$here/package-lock.json" "$here/wit" .
mkdir wit/deps
cp -r "$wasmill/wit" wit/deps/wasmill-plugin

npm ci --silent
npm run --silent build
