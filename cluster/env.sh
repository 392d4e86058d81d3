# Source this file in bash, from any folder, before spark-submit or python jobs/X.py. It puts .venv first on the PATH
# and sets the Python, Java and settings that Spark uses. With STACK=current in the environment, it uses .venv-current.
cxrflow_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cxrflow_venv=$cxrflow_root/.venv
[ "${STACK:-classic}" = classic ] || cxrflow_venv+=-$STACK
[ -x "$cxrflow_venv/bin/python" ] || {
    echo "env.sh: expected the folder $cxrflow_venv, found none; run make setup STACK=${STACK:-classic} first" >&2
    return 2
}
export PATH="$cxrflow_venv/bin:$PATH"
# Without this, executors use the system's Python.
export PYSPARK_PYTHON="$cxrflow_venv/bin/python"
export PYSPARK_DRIVER_PYTHON="$PYSPARK_PYTHON"
SPARK_HOME=$("$PYSPARK_PYTHON" -c \
    'import importlib.util as u; print(u.find_spec("pyspark").submodule_search_locations[0])')
export SPARK_HOME
# Hides TensorFlow's notices about the processor, which every process would print. Warnings and errors still show.
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-1}
export SPARK_CONF_DIR="$cxrflow_root/lib/cxrflow/spark/conf"
cxrflow_java=$("$PYSPARK_PYTHON" -c 'from cxrflow.base.environment import java_home; print(java_home() or "")')
if [ -n "$cxrflow_java" ]; then
    export JAVA_HOME=$cxrflow_java
fi
unset cxrflow_root cxrflow_venv cxrflow_java
