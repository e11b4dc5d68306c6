"""Type and range of every key of the configs, as pydantic models; `make schema` writes them as JSON schemas."""
