#!/usr/bin/env bash
# Starts a Spark standalone cluster with the pyspark in .venv. A pip-installed pyspark lacks Spark's start scripts.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/processes.sh"

usage() {
    cat <<'HELP'
Start a Spark standalone cluster on this machine, or start workers here that join a master on another machine.

    cluster/start.sh --workers 2 --cores 1 --memory 2g

On several machines, start the master on the first one and workers on the others:

    cluster/start.sh --host 10.0.0.1 --workers 0
    cluster/start.sh --host 10.0.0.2 --master spark://10.0.0.1:7077 --cores 8 --memory 16g
    cluster/start.sh --host 10.0.0.3 --master spark://10.0.0.1:7077 --cores 8 --memory 16g

  --workers N        number of worker processes to start here; 0 starts only a master (1)
  --cores N          task slots of each worker (1)
  --memory SIZE      memory of each worker for the Java heaps of its executors, such as 512m or 2g (2g); the Python
                     processes that decode and train need their own memory in addition
  --master URL       join the master at spark://HOST:PORT instead of starting one
  --host ADDRESS     address of this machine on which the master and the workers listen (127.0.0.1)
  --port PORT        port of the master, 0 for any free port (7077)
  --webui-port PORT  port of the master's web page, 0 for any free port (8080)
  --state DIR        folder for process ids, logs and the executors' working folders (build/cluster)
  --help             show this text

The last line on standard output is the URL of the master, for spark-submit --master. cluster/stop.sh stops the
processes that this script started. Every machine needs the checkout and its .venv at the same path, and must reach
the data under the same path or URL.

Everyone who can reach the port of the master can run any code as the user who started it. So by default, the cluster
listens only on this machine. Use --host only on a network where you trust everyone. To authenticate the master, the
workers and the executors, set spark.authenticate and spark.authenticate.secret in
lib/cxrflow/spark/conf/spark-defaults.conf on every machine, and never commit a secret. These settings do not encrypt
anything. They protect neither the web pages nor the connections that Horovod and torch open between training workers.
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

# Without a lock, two calls at the same time would both find the folder free.
exec 9>"$state/lock"
flock --nonblock 9 ||
    fail "another cluster/start.sh uses $state at the moment; wait for it, or name another folder with --state"
for file in "$state"/*.pid; do
    [ -e "$file" ] || continue
    ! is_running "$file" || fail "a cluster already runs in $state ($(basename "$file" .pid), process \
$(cut -d' ' -f1 "$file")); stop it with cluster/stop.sh --state $state, or name another folder with --state"
    rm "$file"
done

# Spark's daemons hold no data, so they need little memory. Executors and Python need the rest.
export SPARK_DAEMON_MEMORY=512m
# Without this, the web pages listen on every address of the machine, regardless of --host.
export SPARK_LOCAL_IP=$host
# A port in use must be an error, so Spark must not try the next port. The log settings are Spark's defaults, because
# those in this folder, which are for jobs, hide the lines that show that a daemon is ready.
export SPARK_DAEMON_JAVA_OPTS="${SPARK_DAEMON_JAVA_OPTS:-} -Dspark.port.maxRetries=0 \
-Dlog4j2.configurationFile=classpath:org/apache/spark/log4j2-defaults.properties"

seconds=60

# In a new session, so that Ctrl-C in the terminal ends only the job. stop.sh ends the cluster.
launch() {
    local name=$1
    shift
    setsid "$SPARK_HOME/bin/spark-class" "$@" >"$state/logs/$name.log" 2>&1 </dev/null 9>&- &
    local pid=$!
    printf '%s %s\n' "$pid" "$(start_time "$pid" || echo ended)" >"$state/$name.pid"
}

# Waits for a line in the daemon's own log. The master's JSON page could belong to another cluster, and would need the
# web port of a master on another machine.
wait_for() {
    local name=$1 line=$2 deadline=$((SECONDS + seconds)) why=''
    until grep -q "$line" "$state/logs/$name.log"; do
        if ! is_running "$state/$name.pid"; then
            why="$name ended before it was ready"
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

# Stops the processes of a failed or interrupted start.
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
    # A worker's web page takes any free port. The master's page has the link to it.
    launch "worker-$number" org.apache.spark.deploy.worker.Worker --host "$host" --webui-port 0 \
        --cores "$cores" --memory "$memory" --work-dir "$state/work" "$master"
done
for number in $(seq "$workers"); do
    wait_for "worker-$number" 'Successfully registered with master'
done
trap - EXIT
say "start: $workers worker(s) of $cores core(s) and $memory registered; logs in $state/logs"
printf '%s\n' "$master"
