"""The methods: each a package with its model, its objective and its way to generate."""
