#!/usr/bin/env bash
# Starts a Spark standalone cluster from the pyspark in .venv, which comes without Spark's own start scripts.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/processes.sh"

usage() {
    cat <<'HELP'
Start a Spark standalone cluster: a master and its workers here, or workers here that join a master elsewhere.

    cluster/start.sh --workers 2 --cores 1 --memory 2g

or on several machines, the first of which has the master alone:

    cluster/start.sh --host 10.0.0.1 --workers 0
    cluster/start.sh --host 10.0.0.2 --master spark://10.0.0.1:7077 --cores 8 --memory 16g
    cluster/start.sh --host 10.0.0.3 --master spark://10.0.0.1:7077 --cores 8 --memory 16g

  --workers N        worker processes to start here, 0 for none beside a master (1)
  --cores N          task slots of each worker (1)
  --memory SIZE      memory that each worker may give to executors' Java heaps, such as 512m or 2g (2g); decoding
                     and training happen in Python processes beside these heaps
  --master URL       join the master at spark://HOST:PORT instead of starting one
  --host ADDRESS     address of this machine that master and workers listen on (127.0.0.1)
  --port PORT        port of the master, 0 for any free one (7077)
  --webui-port PORT  port of the master's web page, 0 for any free one (8080)
  --state DIR        folder for process ids, logs and the executors' working folders (build/cluster)
  --help             show this text

The last line on standard output is the master's URL, for spark-submit --master. cluster/stop.sh stops what was
started. Every machine needs the checkout and its .venv at the same path, and the data under the same path or URL.

Who reaches the master's port can run any code as the user who started it. So the default address is this machine's
own; give --host only on a network on which you trust everyone. The settings spark.authenticate and
spark.authenticate.secret, in cluster/spark-defaults.conf of every machine (never commit a secret), keep strangers
from master, workers and executors, but not from the web pages or from the connections that Horovod and torch open
between training workers, and they encrypt nothing.
HELP
}

bad_flag() {
    say "start: $1; see cluster/start.sh --help"
    exit 2
}

fail() {
    say "start: $1"
    exit 1
}

workers=1 cores=1 memory=2g master='' host='' port='' webui_port='' state=${here%/*}/build/cluster
while [ $# -gt 0 ]; do
    case $1 in
    --help)
        usage
        exit 0
        ;;
    --workers | --cores | --memory | --master | --host | --port | --webui-port | --state)
        [[ -n ${2:-} && $2 != --* ]] || bad_flag "$1: expected a value after it, got ${2:-nothing}"
        name=${1#--}
        printf -v "${name//-/_}" %s "$2"
        shift 2
        ;;
    *) bad_flag "expected a known flag, got '$1'" ;;
    esac
done

is_count() { [[ $1 =~ ^[1-9][0-9]{0,4}$ ]]; }
is_port() { [[ $1 =~ ^(0|[1-9][0-9]{0,4})$ ]] && [ "$1" -le 65535 ]; }
is_loopback() { [[ $1 =~ ^(127\.[0-9.]+|localhost)$ ]]; }

is_count "$workers" || { [ "$workers" = 0 ] && [ -z "$master" ]; } ||
    bad_flag "--workers: expected a whole number above 0, or 0 for a master alone, got '$workers'"
is_count "$cores" || bad_flag "--cores: expected a whole number above 0, got '$cores'"
[[ $memory =~ ^[1-9][0-9]*[mg]$ ]] || bad_flag "--memory: expected a size such as 512m or 2g, got '$memory'"
if [ -n "$master" ]; then
    [[ $master =~ ^spark://([^:/]+):[0-9]+$ ]] ||
        bad_flag "--master: expected spark://HOST:PORT, got '$master'"
    is_loopback "${BASH_REMATCH[1]}" || { [ -n "$host" ] && ! is_loopback "$host"; } ||
        bad_flag "--host: expected the address at which $master reaches this machine, got '${host:-127.0.0.1}'"
    [ -z "$port$webui_port" ] ||
        bad_flag "--port, --webui-port: expected neither with --master, since no master is started here"
fi
host=${host:-127.0.0.1} port=${port:-7077} webui_port=${webui_port:-8080}
is_port "$port" || bad_flag "--port: expected a number from 0 to 65535, got '$port'"
is_port "$webui_port" || bad_flag "--webui-port: expected a number from 0 to 65535, got '$webui_port'"

source "$here/env.sh"
mkdir -p "$state/logs" "$state/work" || fail "--state: cannot make the folder '$state'; name another one"
state=$(cd "$state" && pwd)

# Two calls at the same time would both find the folder free.
exec 9>"$state/lock"
flock --nonblock 9 ||
    fail "another cluster/start.sh is at work in $state; wait for it, or name another folder with --state"
for file in "$state"/*.pid; do
    [ -e "$file" ] || continue
    ! is_running "$file" || fail "a cluster already runs in $state ($(basename "$file" .pid), process \
$(cut -d' ' -f1 "$file")); stop it with cluster/stop.sh --state $state, or name another folder with --state"
    rm "$file"
done

# Spark's daemons hold no data; the machine's memory belongs to executors and Python.
export SPARK_DAEMON_MEMORY=512m
# Their web pages would otherwise listen on every address of the machine, whatever --host says.
export SPARK_LOCAL_IP=$host
# A taken port must be an error, not the next port. And the conf folder's log settings, made for jobs, would hide
# the lines that tell that a daemon is ready.
export SPARK_DAEMON_JAVA_OPTS="${SPARK_DAEMON_JAVA_OPTS:-} -Dspark.port.maxRetries=0 \
-Dlog4j2.configurationFile=classpath:org/apache/spark/log4j2-defaults.properties"

seconds=60

# Own session: Ctrl-C in the terminal must reach the job, and stop.sh the cluster.
launch() {
    local name=$1
    shift
    setsid "$SPARK_HOME/bin/spark-class" "$@" >"$state/logs/$name.log" 2>&1 </dev/null 9>&- &
    local pid=$!
    printf '%s %s\n' "$pid" "$(start_time "$pid" || echo ended)" >"$state/$name.pid"
}

# A daemon's own log rather than the master's JSON: it cannot be another cluster's answer, and it needs no web port
# of a master elsewhere.
wait_for() {
    local name=$1 line=$2 deadline=$((SECONDS + seconds)) why=''
    until grep -q "$line" "$state/logs/$name.log"; do
        if ! is_running "$state/$name.pid"; then
            why="$name ended instead of getting ready"
        elif [ "$SECONDS" -ge "$deadline" ]; then
            why="$name was not ready after $seconds seconds"
        else
            sleep 0.1
            continue
        fi
        say "start: $why; the last lines of $state/logs/$name.log, without stack frames:"
        grep -Ev '^\s+(at|\.\.\.) ' "$state/logs/$name.log" | tail -n 10 >&2
        exit 1
    done
}

# What a failed or interrupted start leaves half done is of no use to anybody.
trap '"$here/stop.sh" --state "$state"' EXIT
trap 'exit 130' INT TERM

if [ -z "$master" ]; then
    launch master org.apache.spark.deploy.master.Master --host "$host" --port "$port" --webui-port "$webui_port"
    wait_for master 'New state: ALIVE'
    log=$state/logs/master.log
    master=$(sed -n 's/.*Starting Spark master at \(spark:[^ ]*\).*/\1/p' "$log")
    say "start: master ready, web page $(sed -n 's/.*MasterWebUI.* started at \(http[^ ]*\).*/\1/p' "$log")"
fi
for number in $(seq "$workers"); do
    # Any free port for a worker's own page; the master's page has the link.
    launch "worker-$number" org.apache.spark.deploy.worker.Worker --host "$host" --webui-port 0 \
        --cores "$cores" --memory "$memory" --work-dir "$state/work" "$master"
done
for number in $(seq "$workers"); do
    wait_for "worker-$number" 'Successfully registered with master'
done
trap - EXIT
say "start: $workers worker(s) of $cores core(s) and $memory registered; logs in $state/logs"
printf '%s\n' "$master"
