# shellcheck shell=bash
# Sourced by start.sh and stop.sh: how they name, record and recognise the processes of a cluster.

say() { printf '%s\n' "$*" >&2; }

# A process id is used again once its process has ended, but not together with the same start time.
start_time() {
    local stat
    { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 1
    stat=${stat##*) }
    local -a fields
    read -ra fields <<<"$stat"
    # A zombie has ended; where nothing collects orphans it stays listed for ever.
    [ "${fields[0]}" != Z ] || return 1
    printf '%s\n' "${fields[19]}"
}

# Whether the process that a pid file records still runs.
is_running() {
    local pid started
    read -r pid started <"$1" && [ "$(start_time "$pid")" = "$started" ]
}
