"""A call that the processes which a launcher starts can make, also where ``--py-files`` is all that brings cxrflow."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from pyspark import SparkFiles, cloudpickle
from pyspark.sql import SparkSession


def portable(spark: SparkSession, function: Callable, *arguments) -> Callable[[], Any]:
    """``function(*arguments)`` as a function that needs nothing of cxrflow to be unpickled.

    Spark puts what ``--py-files`` names on the path of its own Python processes, but a launcher's child of one of them
    would not find it. There the files lie in the folder that it starts in.
    """
    context = spark.sparkContext
    folder = SparkFiles.getRootDirectory() if context.master.startswith("local") else ""
    files = [os.path.join(folder, name) for name in context._python_includes]
    content = cloudpickle.dumps((function, arguments))

    def call():  # nested, so that it is pickled by value
        import os
        import pickle
        import sys

        sys.path[1:1] = map(os.path.abspath, files)
        function, arguments = pickle.loads(content)
        return function(*arguments)

    return call
