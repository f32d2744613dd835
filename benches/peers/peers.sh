#!/usr/bin/env bash
# Measures wgnorm and its peers and puts the tables into BENCHMARKS.md:
#
#   benches/peers/peers.sh                                 everything
#   STEPS="wgnorm table" benches/peers/peers.sh            some steps; their new lines replace their old ones
#
# Needs cargo, python3, node, npm, a Vulkan driver (lavapipe will do) and Chromium. Peers are installed from
# PyPI, npm and crates.io into PEERS_CACHE. Other knobs: BUDGET_S (seconds per measurement), ROTATE_MB (inputs
# rotated over), THREADS, STEP_LIMIT_S, SHAPE_LIMIT_S (per shape in the browser), FILTER (for wgnorm's cases),
# OUT (the lines of results), CHROMIUM, WEBGPU_ADAPTER (swiftshader, or default for the machine's own).
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
cache=${PEERS_CACHE:-${TMPDIR:-/tmp}/wgnorm-peers}
out=${OUT:-$cache/results.jsonl}
steps=${STEPS:-setup-py setup-web setup-burn wgnorm torch ort openvino ncnn network wgnorm-gpu ncnn-vulkan burn web table}
threads=${THREADS:-1 2}
export BUDGET_S=${BUDGET_S:-1} ROTATE_MB=${ROTATE_MB:-192}
export NODE_DIR=$cache/node MODELS=$cache/models
# Idle threads of one peer must not spin beside the next one.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
py=$cache/python/bin/python
mkdir -p "$NODE_DIR" "$MODELS"
touch "$out"

host=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
has() { [[ " $steps " == *" $1 "* ]]; }

# Prints and collects what a command measures, each line with the step, the processor, the day and the load.
collect() { # step command...
    local step=$1 line
    timeout "${STEP_LIMIT_S:-3600}" "${@:2}" 2>>"$cache/$step.log" | while read -r line; do
        printf '{"step": "%s", "host": "%s", "day": "%s", "load": %s, %s\n' "$step" "$host" "$(date -u +%F)" \
            "$(cut -d ' ' -f 1 /proc/loadavg)" "${line#\{}"
    done | tee -a "$cache/new.jsonl"
}

# A step's lines in place of its old ones.
step() { # step function
    has "$1" || return
    echo "== $1" >&2
    : >"$cache/new.jsonl" >"$cache/$1.log"
    "$2" "$1"
    grep -v "\"step\": \"$1\"" "$out" >"$cache/kept.jsonl"
    cat "$cache/kept.jsonl" "$cache/new.jsonl" >"$out"
    [ -s "$cache/new.jsonl" ] || echo "$1 measured nothing, see $cache/$1.log" >&2
}

bench_norms() { # step option...
    (cd "$root" && collect "$1" cargo run --release --example bench_norms -- --json --seconds "$BUDGET_S" \
        --filter "${FILTER:-}" "${@:2}")
}
wgnorm() { for t in $threads; do bench_norms "$1" --backend host --threads "$t"; done; }
wgnorm_gpu() { bench_norms "$1" --backend gpu; }
# wgnorm is given the memory of its outputs: a peer that allocates its own gets it from the heap, not from the kernel.
heap=(env MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=4000000000 MALLOC_TOP_PAD_=268435456)
python_peer() { for t in $threads; do collect "$1" "${heap[@]}" "$py" "$here/peers.py" "$1" --threads "$t"; done; }
network() {
    (cd "$root" && cargo build -q --release -p style-transfer)
    for size in 256 512; do
        collect "$1" "$py" "$here/network.py" --demo "${CARGO_TARGET_DIR:-$root/target}/release/style-transfer" --size "$size"
    done
}
ncnn_vulkan() { collect "$1" "$py" "$here/peers.py" ncnn --vulkan; }
burn() { collect "$1" "$cache/burn/release/burn_peer" "$here/shapes.json"; }
web() {
    "$py" "$here/peers.py" models --to "$MODELS" 2>>"$cache/$1.log"
    export WEB_NORM=${CARGO_TARGET_DIR:-$root/target}/web/web_norm
    collect "$1" node "$here/web.mjs" wgnorm-webgpu wgnorm-wasm ort-wasm:1 ort-wasm:2 ort-webgpu tfjs-wasm tfjs-webgpu
}

if has setup-py; then
    python3 -m venv "$cache/python" && "$cache/python/bin/pip" install -q numpy onnx onnxruntime openvino ncnn torch
fi
if has setup-web; then
    tf=@tensorflow/tfjs
    (cd "$NODE_DIR" && echo '{"private": true}' >package.json &&
        npm install --silent onnxruntime-web@1.30 playwright-core@1 $tf@4 $tf-backend-webgpu@4 $tf-backend-wasm@4)
    "$root/examples/web.sh" build
fi
if has setup-burn; then
    CARGO_TARGET_DIR=$cache/burn cargo build -q --release --manifest-path "$here/burn_peer/Cargo.toml"
fi
step wgnorm wgnorm
step torch python_peer
step ort python_peer
step openvino python_peer
step ncnn python_peer
step network network
step wgnorm-gpu wgnorm_gpu
step ncnn-vulkan ncnn_vulkan
step burn burn
step web web
if has table; then "$here/table.py" "$out" "$root/BENCHMARKS.md"; fi
