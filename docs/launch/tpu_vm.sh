#!/usr/bin/env bash
# One run on a TPU pod slice of Google Cloud: made, set up, trained on, and deleted.
#
#     docs/launch/tpu_vm.sh NAME ZONE TYPE REPOSITORY --config=configs/imagenet_resnet50.py \
#         --config.data.data_dir=/mnt/data/tensorflow_datasets --workdir=/mnt/data/runs/r50
#
# TYPE is for example v5litepod-16 (4 hosts). /mnt/data has to be one file system that all hosts see
# (Filestore), mounted by the image or a start-up script: all of them write checkpoints.
set -euo pipefail
if [ $# -lt 5 ]; then sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2; fi
NAME=$1 ZONE=$2 TYPE=$3 REPOSITORY=$4
shift 4
VERSION=${VERSION:-v2-alpha-tpuv5-lite}

on_all_hosts() {
    gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="$1"
}

gcloud compute tpus tpu-vm create "$NAME" --zone="$ZONE" --accelerator-type="$TYPE" --version="$VERSION"
trap 'gcloud compute tpus tpu-vm delete "$NAME" --zone="$ZONE" --quiet' EXIT
on_all_hosts "git clone --depth=1 $(printf %q "$REPOSITORY") resnet_jax && cd resnet_jax \
    && python3 -m venv .venv && .venv/bin/pip install -q -r requirements.txt 'jax[tpu]'"
# The pod tells JAX who belongs together. Exit code 75: interrupted; the same command goes on.
for attempt in $(seq 20); do
    code=0
    on_all_hosts "cd resnet_jax && .venv/bin/python -m resnet_jax.main --distributed $(printf '%q ' "$@")" || code=$?
    [ "$code" -ne 75 ] && exit "$code"
    echo "attempt $attempt was interrupted; going on" >&2
done
exit 75
