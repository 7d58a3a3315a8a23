#!/usr/bin/env bash
# Runs every test, with all features. They need Rust and a C compiler.
#
#   bash tests/run.sh           what must pass with each change
#   bash tests/run.sh --full    and the long proofs: 10,000 changes through 100 crashes of each kind,
#                               a containment of 100,000 keys, a million steps of the limiter in
#                               Redis, schedules of faults (10,000 on a model, 50 on servers, 1,000
#                               of a fleet, 10,000 of usage, 150 of announcements), the usage of ten
#                               million keys while the store is down, 200 processes killed while
#                               they count, and 200 while they deliver, two months of 10,000 keys in
#                               which anomalies are looked for, a store of a million keys, 2,000
#                               revocations that are timed from one process to another, and the
#                               instructions that usage costs a request
#   bash tests/run.sh NAME      only tests whose name has NAME
#
# A backend is tested against its real server. What it needs is installed here, before the tests:
# a server that cannot be had is a failure, never a silent skip.
set -euo pipefail
cd "$(dirname "$0")/.."

as_root() {
    if [ "$(id -u)" != 0 ] && command -v sudo >/dev/null; then sudo "$@"; else "$@"; fi
}

# PostgreSQL, from Debian's packages. Each test starts servers of its own, so the package shall not
# start one on port 5432.
install_postgres() {
    local settings=/etc/postgresql-common/createcluster.conf
    if [ ! -e $settings ]; then
        as_root mkdir -p /etc/postgresql-common &&
            echo 'create_main_cluster = false' | as_root tee $settings >/dev/null || return
    fi
    as_root apt-get update &&
        as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y --no-install-recommends postgresql
}

if ! command -v postgres /usr/lib/postgresql/*/bin/postgres >/dev/null; then
    install_postgres || {
        echo "PostgreSQL cannot be installed with apt-get: put its programs into PATH" >&2
        exit 1
    }
fi

# Redis. Each test starts servers of its own, so the package shall not start one on port 6379.
install_redis() {
    as_root apt-get update || return
    if command -v systemctl >/dev/null; then
        as_root systemctl mask redis-server.service >/dev/null 2>&1 || true
    fi
    as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get install -y --no-install-recommends redis-server
}

if ! command -v redis-server >/dev/null; then
    install_redis || {
        echo "Redis cannot be installed with apt-get: put redis-server into PATH" >&2
        exit 1
    }
fi

# nginx. Each test starts one of its own, so the package shall not start one on port 80.
install_nginx() {
    as_root apt-get update || return
    if command -v systemctl >/dev/null; then
        as_root systemctl mask nginx.service >/dev/null 2>&1 || true
    fi
    as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get install -y --no-install-recommends nginx
}

if ! command -v nginx /usr/sbin/nginx >/dev/null; then
    install_nginx || {
        echo "nginx cannot be installed with apt-get: put its program into PATH" >&2
        exit 1
    }
fi

# A secret scanner, and the engines of others, for Python, in a virtual environment of their own.
scanners=${SCANNERS:-target/scanners}
install_scanners() {
    if ! python3 -c 'import ensurepip' 2>/dev/null; then
        as_root apt-get update &&
            as_root env DEBIAN_FRONTEND=noninteractive \
                apt-get install -y --no-install-recommends python3-venv || return
    fi
    python3 -m venv "$scanners" &&
        "$scanners"/bin/pip install --quiet \
            detect-secrets==1.5.0 google-re2==1.1.20251105 hyperscan==0.9.1
}

if ! "$scanners"/bin/python -c 'import detect_secrets, hyperscan, re2' 2>/dev/null; then
    install_scanners || {
        echo "The scanners cannot be installed with pip: name an environment in SCANNERS" >&2
        exit 1
    }
fi

if [ "${1:-}" = --full ]; then
    shift
    export CRASH_ROUNDS=100 CRASH_CHANGES=100 CONTAINED_KEYS=100000 OUTBOX_PENDING=100000
    export REDIS_STEPS=1000000 HAMMER_SECONDS=59 CLUSTER_MOVES=150
    export STALENESS_SCHEDULES=1000 FAULT_SCHEDULES=10000 REAL_SCHEDULES=50
    export ANNOUNCEMENT_SCHEDULES=50
    export USAGE_SCHEDULES=10000 USAGE_KEYS=10000000 DEATHS=200 ANOMALY_KEYS=10000
    cargo bench --locked --all-features --bench stores
    REVOCATIONS=2000 cargo bench --locked --all-features --bench revocation
    bash benches/instructions.sh --check full_10k metered_10k
fi
cargo test --workspace --all-features --locked "$@"
