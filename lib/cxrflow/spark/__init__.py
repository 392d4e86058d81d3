"""What runs on Spark's driver and executors. The only rooms that import pyspark, and none imports Keras here."""
