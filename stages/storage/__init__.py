"""Inputs: folders."""

from stages.storage.tree import ROOT, Tree

__all__ = ["ROOT", "Tree"]
