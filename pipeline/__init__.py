"""The commands, and what runs the stages: plan, units, executors, shards, manifest, report."""
