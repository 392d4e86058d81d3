"""A finished run as pictures and one HTML page. No Spark, no Keras: it reads the small files that jobs left."""
