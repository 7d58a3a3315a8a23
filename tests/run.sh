#!/usr/bin/env bash
# Runs every test, with all features. They need Rust and a C compiler.
#
# A backend is tested against its real server. What it needs is installed here, before the tests:
# a server that cannot be had is a failure, never a silent skip.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo test --workspace --all-features --locked "$@"
