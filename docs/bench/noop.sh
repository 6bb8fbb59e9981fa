#!/usr/bin/env bash
# The whole process of a second run of the quickstart, where nothing reruns: median, fastest and slowest of 21 runs.
#   cargo build --release && docs/bench/noop.sh target/release/palinode
set -euo pipefail
palinode=$(realpath "$1")
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cp "$(dirname "$0")/../../pipelines/quickstart.yaml" "$dir"
cd "$dir"
"$palinode" run quickstart.yaml >/dev/null 2>&1
for _ in $(seq 21); do
  start=$(date +%s%N)
  "$palinode" run quickstart.yaml >/dev/null 2>&1
  echo $((($(date +%s%N) - start) / 10000))
done | sort -n | awk '{ t[NR] = $1 / 100 } END { printf "median %.1f ms, fastest %.1f ms, slowest %.1f ms\n", t[11], t[1], t[NR] }'
