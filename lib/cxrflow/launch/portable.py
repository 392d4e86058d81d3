"""Function calls that a launcher's processes can unpickle, also if ``--py-files`` is the only source of cxrflow."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from pyspark import SparkFiles, cloudpickle
from pyspark.sql import SparkSession


def portable(spark: SparkSession, function: Callable, *arguments: object) -> Callable[[], Any]:
    """``function(*arguments)`` as a function without arguments that can be unpickled where cxrflow is not on the path.

    Spark puts the files of ``--py-files`` on the path of its own Python processes, but not of the processes that a
    launcher starts from them. Those start in the folder that holds the files.
    """
    context = spark.sparkContext
    folder = SparkFiles.getRootDirectory() if context.master.startswith("local") else ""
    files = [os.path.join(folder, name) for name in context._python_includes]
    content = cloudpickle.dumps((function, arguments))

    def call() -> Any:  # nested, so that it is pickled by value
        import os
        import pickle
        import sys

        sys.path[1:1] = map(os.path.abspath, files)
        function, arguments = pickle.loads(content)
        return function(*arguments)

    return call
