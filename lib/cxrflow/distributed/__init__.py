"""A worker's view of the other workers, and the connections between workers and driver."""
