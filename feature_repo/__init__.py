"""Features: the only home of feast; publishes vectors and joins labels to them point-in-time."""
