# Source this in bash, from any folder, before spark-submit or python jobs/X.py: it puts .venv first and tells Spark
# which Python, Java and settings to use.
cxrflow_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ -x "$cxrflow_root/.venv/bin/python" ] || {
    echo "env.sh: expected $cxrflow_root/.venv, found none; run make setup first" >&2
    return 2
}
export PATH="$cxrflow_root/.venv/bin:$PATH"
# Executors take the system's Python unless told otherwise.
export PYSPARK_PYTHON="$cxrflow_root/.venv/bin/python"
export PYSPARK_DRIVER_PYTHON="$PYSPARK_PYTHON"
SPARK_HOME=$("$PYSPARK_PYTHON" -c 'import importlib.util as u; print(u.find_spec("pyspark").submodule_search_locations[0])')
export SPARK_HOME
# TensorFlow greets every process with notices about the processor; its warnings and errors still show.
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-1}
export SPARK_CONF_DIR="$cxrflow_root/cluster"
cxrflow_java=$("$PYSPARK_PYTHON" -c 'from cxrflow.base.environment import java_home; print(java_home() or "")')
if [ -n "$cxrflow_java" ]; then
    export JAVA_HOME=$cxrflow_java
fi
unset cxrflow_root cxrflow_java
