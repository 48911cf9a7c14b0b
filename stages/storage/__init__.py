"""Inputs, wherever they lie: folders, archives, and both behind URLs. `Tree` is the only name that other layers need."""

from stages.storage.remote import is_url
from stages.storage.tree import ROOT, Tree

__all__ = ["ROOT", "Tree", "is_url"]
