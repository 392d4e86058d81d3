"""A stand-in for a Spark session that runs the tasks of an ingest one after the other in this process.

Tests of what ingest does with files need no JVM. Tests of how it uses Spark take the fixture ``spark``.
"""

from __future__ import annotations

import itertools
import pickle
from types import SimpleNamespace


class Rows:
    """What ``parallelize`` returns."""

    def __init__(self, items):
        self._items = list(items)

    def map(self, function):
        function = cloudpickled(function)
        return Rows(map(function, self._items))

    def flatMap(self, function):
        function = cloudpickled(function)
        return Rows(itertools.chain.from_iterable(map(function, self._items)))

    def collect(self):
        return self._items


def cloudpickled(function):
    """The function as an executor gets it."""
    from pyspark.cloudpickle import dumps

    return pickle.loads(dumps(function))


def session(monkeypatch):
    """The stand-in. It has two task slots; images must be in a local folder."""
    for name in ("share_credentials", "warn_about_insecure_packages"):
        monkeypatch.setattr(f"cxrflow.pipeline.ingest_job.{name}", lambda spark: None)
    monkeypatch.setattr("cxrflow.pipeline.ingest_job.registered_slots", lambda spark: 2)
    context = SimpleNamespace(parallelize=lambda items, tasks: Rows(items), defaultParallelism=2)
    return SimpleNamespace(sparkContext=context)
