"""Workers, which run the jobs of a sweep on a machine."""
