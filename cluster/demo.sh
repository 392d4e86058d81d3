#!/usr/bin/env bash
# Runs the demo on a standalone cluster on this machine. Each executor is a separate process, as on a real cluster.
# Environment variables with their defaults: LAUNCHER (horovod), WORKERS (2), IMAGES (synthetic phantoms).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/cluster/env.sh"
state=$root/build/cluster

# Port 0 takes any free port, because another program may use Spark's usual ones.
master=$("$root/cluster/start.sh" --workers 2 --cores 1 --memory 2g --port 0 --webui-port 0 --state "$state")
# Set after start.sh has succeeded. If start.sh refuses to start, another user's cluster runs in this folder.
trap '"$root/cluster/stop.sh" --state "$state"' EXIT

# The driver talks only to executors on this machine.
export SPARK_LOCAL_IP=127.0.0.1
demo=(python "$root/jobs/demo.py" --launcher "${LAUNCHER:-horovod}" --workers "${WORKERS:-2}"
    --folder "$root/build/cluster-demo" --master "$master" --driver-memory 1g)
[ -z "${IMAGES:-}" ] || demo+=(--images "$IMAGES")
"${demo[@]}"
