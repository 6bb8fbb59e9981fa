#!/usr/bin/env bash
# What a machine with an NVIDIA GPU has to show: that the models agree with transformers and PEFT on it (forward passes,
# gradients, AdamW steps, products in bf16; with burn's fusion of kernels and without), and how fast they decode and train.
# Prints one table. In the repository's root: docs/bench/gpu.sh [DEVICE], where DEVICE is `cuda` (usual) or `cuda:1`.
# Needs the driver and NVRTC (LD_LIBRARY_PATH), the CUDA headers (CUDA_PATH), and crates that are there or can be fetched.
# Kernels are compiled when they are first used, and kept in ~/.cache/cubecl: a second run takes less, and speed is only told
# right by it.
set -u
device=${1:-cuda}
export PALINODE_TEST_DEVICE=$device
log=$(mktemp -d)
rows=()
failed=0

row() { rows+=("| $1 | $2 |"); }

# name, features, what cargo test is told
golden() {
    local name=$1 features=$2
    shift 2
    local file="$log/${name//[^a-z0-9]/_}.log"
    if cargo test --release --locked -p palinode-models --features "$features" "$@" >"$file" 2>&1; then
        row "$name" "$(grep -h -o '[0-9]* passed' "$file" | awk '{ n += $1 } END { print n " tests passed" }')"
    else
        failed=1
        row "$name" "FAILED: $(grep -h -m1 -E '^error|panicked|test result: FAILED' "$file" | tr '|' '/' | cut -c1-120) ($file)"
    fi
}

# name, example, arguments
speed() {
    local name=$1
    shift
    local file="$log/${name//[^a-z0-9]/_}.log"
    if cargo run --release --locked -p palinode-models --features cuda --example "$@" >"$file" 2>&1; then
        while IFS= read -r line; do row "${line%:*}" "${line##*: }"; done < <(grep -E 'tokens/s|ms per step|base' "$file")
    else
        failed=1
        row "$name" "FAILED: $(grep -h -m1 -E '^error|panicked|Error' "$file" | tr '|' '/' | cut -c1-120) ($file)"
    fi
}

command -v nvidia-smi >/dev/null || { echo "no nvidia-smi here: is there a GPU?" >&2; exit 2; }
gpu=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | head -1)

for features in cuda cuda-unfused; do
    # One test at a time: they would share the GPU's memory, and say less of which one failed.
    golden "$features: forward passes, gradients, tokenizers" "$features" --test reference -- --test-threads=1
    golden "$features: decoding, lens, saving" "$features" --test golden -- --test-threads=1
    golden "$features: classifiers, AdamW and LoRA" "$features" --test classifiers -- --test-threads=1
    golden "$features: AdamW, in full and LoRA" "$features" --test training -- --test-threads=1 golden::
    golden "$features: products in bf16" "$features" --test training -- --test-threads=1 precision::
done
speed "decoding" decode_speed -- large
speed "training" train_speed -- 50 large

echo "On $gpu, device \`$device\`, $(git rev-parse --short HEAD 2>/dev/null):"
echo
echo "| what | result |"
echo "|---|---|"
printf '%s\n' "${rows[@]}"
exit "$failed"
