#!/usr/bin/env bash
# Counts the instructions of a request under callgrind, in the cases of benches/overhead.rs, and
# compares them with those in benches/instructions.txt.
#
#   bash benches/instructions.sh              prints them, and what moved by more than 5 %
#   bash benches/instructions.sh --check      and fails if anything did, or costs more than it may
#   bash benches/instructions.sh --update     and writes the table anew
#   bash benches/instructions.sh CASE...      only these, and those of the bare service
#
# Unlike times, the counts are the same on a busy machine. They are not quite the same in each run,
# since the seeds of hash tables are random; 5 % is well above what that does. Another compiler or
# another version of a dependency moves them, too: write the table anew, then.
#
# Compare a count only with itself. valgrind hides the SHA extensions of the processor, so the hash
# of a key is more than half of the instructions of the floor here, and about a quarter of its time;
# and no count knows of a cache miss.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly table=benches/instructions.txt
readonly requests=2000
readonly tolerance=5

check=no update=no only=()
for argument; do
    case $argument in
        --check) check=yes ;;
        --update) update=yes ;;
        -*) echo "no such option: $argument" >&2; exit 2 ;;
        *) only+=("$argument") ;;
    esac
done
if [ $update = yes ] && [ ${#only[@]} -gt 0 ]; then
    echo "the table is written from all cases, or not at all" >&2
    exit 2
fi

if ! command -v valgrind >/dev/null; then
    echo "installing: valgrind" >&2
    as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    if ! { "${as_root[@]}" apt-get update -qq &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends valgrind >/dev/null; }; then
        echo "valgrind cannot be installed, so nothing is counted" >&2
        exit 1
    fi
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

cargo bench --locked --bench instructions --no-run 2>"$scratch/build" || {
    cat "$scratch/build" >&2
    exit 1
}
program=$(sed -n 's/^ *Executable .*(\(.*\))$/\1/p' "$scratch/build")

# The instructions of one request, with nothing that happens around it.
count() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null \
        --toggle-collect='*counted_requests*' "$program" "$1" $requests 2>"$scratch/log" || {
        cat "$scratch/log" >&2
        exit 1
    }
    awk -v requests=$requests '
        / Collected : / { count = $NF }
        END { if (!count) exit 1; printf "%d\n", count / requests }
    ' "$scratch/log" || {
        echo "nothing was counted for $1" >&2
        exit 1
    }
}

wanted() {
    [[ ${#only[@]} -eq 0 || $1 = bare_* || " ${only[*]} " = *" $1 "* ]]
}

"$program" list >"$scratch/list"
for name in "${only[@]}"; do
    grep -q "^$name " "$scratch/list" || {
        echo "no such case: $name" >&2
        exit 2
    }
done
declare -A counts
while read -r name bare; do
    if wanted "$name"; then counts[$name]=$(count "$name"); fi
    # The bare service comes before what is compared with it.
    if wanted "$name"; then
        echo "$name ${counts[$name]} $((counts[$name] - counts[$bare]))"
    fi
done <"$scratch/list" >"$scratch/new"

[ -e $table ] || : >$table
status=0
awk -v tolerance=$tolerance '
    !measured { if ($1 !~ /^#/) before[$1] = $2; next }
    FNR == 1 { printf "%-22s%9s%9s%10s\n", "instructions", "whole", "added", "moved" }
    {
        percent = ($1 in before) ? 100 * ($2 - before[$1]) / before[$1] : 0
        moved = ($1 in before) ? sprintf("%+.1f %%", percent) : "new"
        far = percent > tolerance || percent < -tolerance
        if (far || moved == "new") any = 1
        printf "%-22s%9d%9d%10s%s\n", $1, $2, $3, moved, far ? "  <--" : ""
    }
    END { exit any }
' $table measured=1 "$scratch/new" || status=1
if [ $status = 1 ]; then
    echo "some moved by more than $tolerance %, or are new; --update writes the table anew"
else
    echo "none moved by more than $tolerance %"
fi

# Usage may cost 5 % of a request.
if [ -n "${counts[metered_10k]:-}" ] && [ -n "${counts[full_10k]:-}" ]; then
    awk -v metered="${counts[metered_10k]}" -v full="${counts[full_10k]}" 'BEGIN {
        cost = 100 * (metered - full) / full
        printf "counting usage costs %.1f %%, of at most 5 %%\n", cost
        exit cost > 5
    }' || status=1
fi

if [ $update = yes ]; then
    {
        echo "# Instructions of a request under callgrind, and how many more than of the bare service."
        echo "# Written by benches/instructions.sh --update, with $(rustc --version | cut -d' ' -f1,2)."
        cat "$scratch/new"
    } >$table
elif [ $check = yes ]; then
    exit $status
fi
