"""Watching a training: rank 0 reports events, and the driver records them.

An event is plain data (``events``). Rank 0 sends it to the driver with ``Worker.report_event``. There the ``recorder``
passes it to its sinks: lines on the terminal, ``RUN/events.jsonl``, TensorBoard files in ``RUN/tensorboard``, and
MLflow. Each sink has its own module. No sink can stop or delay a training.
"""
