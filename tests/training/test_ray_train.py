"""The same run on a Ray Train worker: same weights as without Ray, and a worker's failure told in its own words."""
