#!/usr/bin/env bash
# What one DAG of trivial stages costs palinode and ninja, in one run on one machine: cold, no-op, one leaf changed; and
# what palinode's plan, status and memory come to. Ratios mean more than seconds.
# usage: docs/bench/peers.sh [path of palinode] [stages...]        (needs python3 with venv, GNU time; ninja comes from PyPI)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
palinode=$(realpath "${1:-target/release/palinode}")
sizes=("${@:2}")
[ ${#sizes[@]} -gt 0 ] || sizes=(1000 5000 20000)
dir=$(mktemp -d "${TMPDIR:-/tmp}/palinode-bench.XXXXXX")
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet ninja
ninja=$dir/venv/bin/ninja
# The program itself: the script that pip puts there starts Python first.
program=$("$dir/venv/bin/python" -c 'import ninja, os; print(os.path.join(ninja.BIN_DIR, "ninja"))' 2>/dev/null || true)
[ -x "$program" ] && ninja=$program

# best NAME TIMES COMMAND...: the shortest of so many runs, in milliseconds; with CHANGE set, a leaf is changed before each.
best() {
    local name=$1 times=$2 least start; shift 2
    least=$(for i in $(seq "$times"); do
        if [ -n "${CHANGE:-}" ]; then echo "changed $i" > in/s0.txt; fi
        start=${EPOCHREALTIME/[.,]/}
        /usr/bin/time -f '%M' -o "$dir/memory" "$@" > "$dir/log" 2>&1 || { cat "$dir/log" >&2; exit 1; }
        echo "$(((${EPOCHREALTIME/[.,]/} - start) / 100)) $(tail -1 "$dir/memory")"
    done | sort -n | head -1)
    printf '  %-28s %8s ms %6d MB\n' "$name" "$((${least% *} / 10)).$((${least% *} % 10))" $((${least#* } / 1024))
}

for n in "${sizes[@]}"; do
    echo "$n stages"
    python3 "$here/dag.py" "$n" "$dir/$n" > /dev/null
    cp -r "$dir/$n" "$dir/$n-ninja"
    cd "$dir/$n"
    if [ "$n" -le 5000 ]; then
        (cd "$dir/$n-ninja" && best "ninja, cold" 1 "$ninja" --quiet)
    fi
    best "palinode run, cold" 1 "$palinode" run pipeline.yaml
    if [ "$n" -le 5000 ]; then
        (cd "$dir/$n-ninja" && best "ninja, no-op" 10 "$ninja" --quiet)
    fi
    best "palinode run, no-op" 10 "$palinode" run pipeline.yaml
    best "palinode plan" 10 "$palinode" plan pipeline.yaml
    best "palinode status" 10 "$palinode" status pipeline.yaml
    if [ "$n" -le 5000 ]; then
        (cd "$dir/$n-ninja" && CHANGE=1 best "ninja, one leaf changed" 5 "$ninja" --quiet)
    fi
    CHANGE=1 best "palinode, one leaf changed" 5 "$palinode" run pipeline.yaml
done
