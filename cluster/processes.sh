# shellcheck shell=bash
# Functions of start.sh and stop.sh that identify the processes of a cluster.

say() { printf '%s\n' "$*" >&2; }

# The start time of a process. The system reuses process ids, but not together with the same start time.
start_time() {
    local stat
    { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 1
    stat=${stat##*) }
    local -a fields
    read -ra fields <<<"$stat"
    # A zombie has ended. It stays in the list of processes where no parent collects it.
    [ "${fields[0]}" != Z ] || return 1
    printf '%s\n' "${fields[19]}"
}

# Whether the process of a pid file still runs.
is_running() {
    local pid started
    read -r pid started <"$1" && [ "$(start_time "$pid")" = "$started" ]
}
