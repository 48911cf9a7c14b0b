"""Training of the tiny base itself."""
