#!/usr/bin/env bash
# Runs every test. Installs what is missing of Redis and PostgreSQL first (Debian packages), since
# the backends are tested against the real servers; a server that cannot be had is a failure, never
# a silent skip. Each test starts its own server on a free port and stops it.
set -euo pipefail
cd "$(dirname "$0")/.."

# PostgreSQL's own binaries are not on the PATH where Debian puts them.
postgres_binaries() {
    local found
    found=$(find /usr/lib/postgresql -maxdepth 3 -path '*/bin/initdb' 2>/dev/null | sort -V | tail -n 1)
    [ -n "$found" ] && dirname "$found"
}

missing=()
command -v redis-server >/dev/null || missing+=(redis-server)
command -v initdb >/dev/null || [ -n "$(postgres_binaries || true)" ] || missing+=(postgresql)
if [ ${#missing[@]} -gt 0 ]; then
    echo "installing: ${missing[*]}"
    as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi
command -v initdb >/dev/null || PATH="$(postgres_binaries):$PATH"
export PATH
redis-server --version
initdb --version

cargo test --workspace --all-features --locked "$@"
