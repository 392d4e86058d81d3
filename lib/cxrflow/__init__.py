"""Train and apply chest X-ray classifiers on a Spark cluster. Research software, not a medical device."""

__version__ = "0.1.0"
