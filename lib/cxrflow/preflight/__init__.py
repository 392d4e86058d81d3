"""What is checked before workers train, in seconds: one table, one verdict.

``spark.preflight`` runs one barrier stage. Each of its tasks gathers facts with ``probe``: ``machine`` (versions,
memory), ``network`` (who reaches whom), ``places`` (the table and the run directory) and ``training.trial`` (one
step of the model, in a process of its own). ``judge`` makes the table of them, a pure function. Facts are plain
data, so that an executor with another version of everything can still say what it has.
"""
