"""Draws random clusters, kube-proxy configurations and probes, as values that a person can read and run again.

Every choice comes from :class:`~kpsim.verify.drawing.choices.Choices`.
"""
