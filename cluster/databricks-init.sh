#!/usr/bin/env bash
# Installs the packages of the extra "train" on every machine of a Databricks cluster, before Spark starts, in the
# versions of requirements.lock. The ML runtimes lack them or have other versions: both have an older Keras; the
# Petastorm of 15.4 changes the order of files; 16.4 has no Petastorm, and its pyarrow is too new for Petastorm.
#
# These packages are not libraries of the job, because they must be installed without their dependencies: Petastorm
# depends on pyspark, and PyPI's pyspark would replace the runtime's own.
set -euo pipefail
/databricks/python/bin/pip install --no-deps \
    keras==3.15.1 petastorm==0.13.1 pyarrow==14.0.2 diskcache==5.6.3 opencv-python-headless==4.11.0.86
