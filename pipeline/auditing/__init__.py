"""What `python -m pipeline.audit` does, one module for each of its verbs. Reads an output folder, never writes to it."""
