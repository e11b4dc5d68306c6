"""The study of a sweep: its jobs, their state, and which is next."""
