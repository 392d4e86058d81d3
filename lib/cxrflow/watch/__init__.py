"""Watching a training: rank 0 tells events, the driver records them.

An event is plain data (``events``), which rank 0's ``Worker.report_event`` hands to the driver. There the ``recorder`` gives it
to its sinks: lines on the terminal, ``RUN/events.jsonl``, TensorBoard's files in ``RUN/tensorboard``, and MLflow. One
file a sink; none of them can stop a training or hold it up.
"""
