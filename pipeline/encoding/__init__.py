"""What `python -m pipeline.encode_latents` does: pictures and texts through a base's codec once, into shards that training reads."""
