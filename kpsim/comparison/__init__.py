"""Compares two accounts of the same syncs: their rules, and the first packets that end differently."""
