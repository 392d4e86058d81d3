"""cxrflow's own settings in Spark's configuration: ``--conf spark.cxrflow.NAME=SECONDS`` for each of ``Timeouts``."""

from __future__ import annotations

import dataclasses

from pyspark.sql import SparkSession

from cxrflow.base.errors import UserError
from cxrflow.base.nearest_name import nearest_name
from cxrflow.distributed.timeouts import Timeouts

PREFIX = "spark.cxrflow."


def read_timeouts(spark: SparkSession) -> Timeouts:
    """The default timeouts, with those that the session's configuration changes.

    Raises UserError for an unknown name that begins with PREFIX, for text that is no number, and for values that
    contradict each other.
    """
    known = [field.name for field in dataclasses.fields(Timeouts)]
    values = {}
    for name in _set_names(spark):
        if name not in known:
            close = nearest_name(name, known)
            advice = f"use {PREFIX}{close}" if close else "leave it out"
            raise UserError(f"--conf {PREFIX}{name}: expected one of {', '.join(known)} after {PREFIX}; {advice}")
        text = spark.conf.get(PREFIX + name)
        try:
            values[name] = float(text or "")
        except ValueError:
            raise UserError(f"--conf {PREFIX}{name}: expected a number of seconds, got {text!r}") from None
    try:
        return Timeouts(**values)
    except ValueError as error:
        raise UserError(f"--conf {PREFIX}{error}") from None


def _set_names(spark: SparkSession) -> list[str]:
    """The names after PREFIX that are set, in alphabetical order."""
    # Spark 3.5 gives Python no list of the session's settings, and asking for each entry would take many calls.
    keys = spark._jsparkSession.conf().getAll().keys().mkString("\n").split("\n")
    return sorted(key.removeprefix(PREFIX) for key in keys if key.startswith(PREFIX))
