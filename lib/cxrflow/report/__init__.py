"""A finished run as pictures and one HTML page, made from the files in the run directory.

No Spark. Keras loads only in a separate process (``gradcam``).
"""
