#!/bin/sh
# Builds stock.wasm in a working folder, by the commands of README.md.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
wasmill=$(cd "$here/../../.." && pwd)
work=${1:-$wasmill/target/polyglot/go}

mkdir -p "$work"
cd "$work"
rm -rf wit messages export_* wasmill_plugin_* wit_exports
cp -r "$here"/*.go "$here/go.mod" "$here/go.sum" "$here/messages" "$here"/export_* "$here/wasi.wat" "$here/wit" .
mkdir wit/deps
cp -r "$wasmill/wit" wit/deps/wasmill-plugin

cargo install --quiet --locked --root tools wit-bindgen-cli@0.57.1 --no-default-features --features go
cargo install --quiet --locked --root tools wasm-tools@1.263.0 --no-default-features --features component
tools/bin/wit-bindgen go -w stock --pkg-name stock wit
export GOFLAGS=-buildvcs=false # The working folder may be in another repository.
GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -trimpath -ldflags=-checklinkname=0 -o core.wasm
tools/bin/wasm-tools component embed -w stock wit core.wasm -o core.wasm
tools/bin/wasm-tools component embed -w wasi wit wasi.wat -o wasi.wasm
tools/bin/wasm-tools component new core.wasm --adapt wasi_snapshot_preview1=wasi.wasm -o stock.wasm
