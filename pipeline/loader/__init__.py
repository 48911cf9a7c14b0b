"""Reads curated shards for training: only the members and frames that a step needs, in an order that is a pure function."""
