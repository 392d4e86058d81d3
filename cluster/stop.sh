#!/usr/bin/env bash
# Stops the processes that start.sh recorded in a state folder, and no other process.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/processes.sh"

bad_flag() {
    say "stop: $1; see cluster/stop.sh --help"
    exit 2
}

state=${here%/*}/build/cluster
while [ $# -gt 0 ]; do
    case $1 in
    --help)
        cat <<'HELP'
Stop the Spark processes that cluster/start.sh started, and wait until they have ended.

  --state DIR  the folder that start.sh used (build/cluster)
  --help       show this text
HELP
        exit 0
        ;;
    --state)
        [[ -n ${2:-} && $2 != --* ]] || bad_flag "$1: expected a value after it, got ${2:-nothing}"
        state=$2
        shift 2
        ;;
    *) bad_flag "expected a known flag, got '$1'" ;;
    esac
done

is_gone_within() {
    local deadline=$((SECONDS + $2))
    while is_running "$1"; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.1
    done
}

# All at the same time, because no worker needs another one to end its executors.
signal() {
    local file
    for file in "${files[@]}"; do
        # The process may end between the check and the signal.
        ! is_running "$file" || kill "-$1" "$(cut -d' ' -f1 "$file")" 2>/dev/null || true
    done
}

shopt -s nullglob
files=("$state"/*.pid)
if [ ${#files[@]} -eq 0 ]; then
    say "stop: no cluster to stop in $state"
    exit 0
fi
signal TERM
for file in "${files[@]}"; do
    is_gone_within "$file" 20 || signal KILL
    is_gone_within "$file" 5 || {
        say "stop: $(basename "$file" .pid), process $(cut -d' ' -f1 "$file"), does not end; see $state/logs"
        exit 1
    }
    rm "$file"
done
say "stop: ${#files[@]} process(es) stopped in $state"
