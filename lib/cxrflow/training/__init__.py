"""What runs in a training worker. These rooms import Petastorm and Keras, and never pyspark's session."""
