"""Spark's driver and executors: sessions, listing, decoding, scoring. Only this package and those above import pyspark.

Executors decode without Keras; ``scorer`` imports it when it loads a model.
"""
