#!/usr/bin/env bash
# Runs on every machine of a Databricks cluster before Spark starts: brings what the ML runtimes lack to the versions
# of requirements.lock. Both have an older Keras; 15.4 has a Petastorm that mixes up the order of files; 16.4 has no
# Petastorm, and a pyarrow that Petastorm cannot use.
#
# Not a library of the job, because it must be without dependencies: Petastorm's name PyPI's pyspark, which would
# lie over the runtime's own.
set -euo pipefail
/databricks/python/bin/pip install --no-deps keras==3.15.1 petastorm==0.13.1 pyarrow==14.0.2 diskcache==5.6.3 opencv-python-headless==4.11.0.86
