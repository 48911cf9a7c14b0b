"""Training: one loop for every method, over `accelerate`; checkpoints, logs and what is said before the first step."""
