"""Random clusters, kube-proxy configurations, probes and packet sequences, as values that a person can read and run again.

Counterpart: none. All choices come from :class:`~kpsim.verify.drawing.choices.Choices`; what becomes of what is drawn it never knows.
"""
