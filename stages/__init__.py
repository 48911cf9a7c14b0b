"""Pure steps of the curation: read a dataset's layout, decode, sample, score. Never imports ray."""
