"""Checks the cluster before workers train, in seconds: one table of checks and one verdict.

- ``check``: the entry point. It runs the checks, logs the table and raises UserError if a check failed.
- ``barrier_stage``: the driver's side. It runs one Spark barrier stage with a task for each worker.
- ``probe``: a task's side. It collects facts: versions, memory, network, storage, and one training step.
- ``connectivity``, ``storage_probe``, ``smoke_process``: the parts of a probe.
- ``judge``: pure functions from facts to rows.
- ``verdict``: the rows of the table, and its text.

Facts are plain data as JSON, so that an executor with other versions can still report them.
"""
