"""Models that look at pixels, one family per file: arrays in, arrays out. They know no stage and no recipe."""
