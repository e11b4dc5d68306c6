"""One file a format; each gives `read(...) -> Source`."""
