#!/usr/bin/env bash
# Everything that is worth measuring on a GPU, in less than ten minutes; results as JSON and Markdown.
#
#     benchmarks/on_gpu.sh [OUT]        default runs/benchmarks_gpu
#
# What has its result already is left out, so that it can be started again after an interruption.
# Needs jax[cuda12] (or cuda13), and for the comparison a PyTorch for the same GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
OUT=${1:-runs/benchmarks_gpu}
PYTHON=${PYTHON:-.venv/bin/python}
mkdir -p "$OUT"
"$PYTHON" -c 'import jax; assert jax.default_backend() == "gpu", "JAX sees no GPU"'

# measure RESULT COMMAND...: runs it for as long as it may take, unless RESULT is there.
measure() {
    local result=$1
    shift
    [ -e "$OUT/$result" ] && return
    timeout 150 "$PYTHON" "$@" || echo "not measured: $result" >&2
}

for precision in float32 bfloat16; do
    measure "compare_gpu_$precision.json" -m benchmarks.compare --device=gpu --precision=$precision \
        --contender=ours --contender=compile --steps=50 --rounds=5 --out="$OUT"
done
measure data_pipeline.json -m benchmarks.data_pipeline --steps=1000 --out="$OUT"
measure compilation.json -m benchmarks.compilation --depths=20,110,1202 --compile_up_to=1202 --out="$OUT"
measure start_up.json -m benchmarks.start_up --depths=20,110 --rounds=1 --out="$OUT"
measure sweep_throughput.json -m benchmarks.sweep_throughput --ways=1,2,4 --steps=4000 --rounds=1 --out="$OUT"
measure seeds_at_once.json -m benchmarks.seeds_at_once --seeds=4 --steps=50 --out="$OUT"
measure backbones_224.json -m benchmarks.backbones --size=224 --out="$OUT"
measure loop_overhead.json -m benchmarks.loop_overhead --config=configs/digits.py --steps=2000 --rounds=3 --out="$OUT"
# One whole run: 64,000 steps, compilation included. Synthetic images cost what CIFAR's cost.
measure run_resnet20/evaluation.json -m resnet_jax.main --config=configs/cifar_resnet20.py \
    --config.data.name=synthetic --config.data.synthetic.examples=60000 --workdir="$OUT/run_resnet20"
