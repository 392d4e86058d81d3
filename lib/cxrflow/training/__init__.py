"""The code that runs in a training worker. It may import Petastorm and Keras, but never opens a Spark session."""
