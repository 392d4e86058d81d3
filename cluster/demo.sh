#!/usr/bin/env bash
# The demo on a standalone cluster on this machine: each executor is a process of its own, as on many machines.
# Settings come from the environment: LAUNCHER (horovod), WORKERS (2), IMAGES (synthetic phantoms).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/cluster/env.sh"
state=$root/build/cluster

# Any free ports: another cluster or program may hold Spark's usual ones.
master=$("$root/cluster/start.sh" --workers 2 --cores 1 --memory 2g --port 0 --webui-port 0 --state "$state")
# Not before start.sh has succeeded: where it refuses to start, the cluster in this folder belongs to somebody else.
trap '"$root/cluster/stop.sh" --state "$state"' EXIT

# The driver talks to this machine's executors only.
export SPARK_LOCAL_IP=127.0.0.1
demo=(python "$root/jobs/demo.py" --launcher "${LAUNCHER:-horovod}" --workers "${WORKERS:-2}"
    --folder "$root/build/cluster-demo" --master "$master" --driver-memory 1g)
[ -z "${IMAGES:-}" ] || demo+=(--images "$IMAGES")
"${demo[@]}"
