"""A finished run as pictures and one HTML page. No Spark, and Keras only in a process of its own (``gradcam``): it reads the
files that jobs left."""
