"""Plain data shared by every layer: cameras, candidates, verdicts, recipes and the manifest's tables.

Imports neither torch, ray nor av.
"""
