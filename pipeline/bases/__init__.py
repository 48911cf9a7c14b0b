"""Text-to-video bases that the methods build on: one interface over `diffusers` models, their codecs, texts and schedules."""
