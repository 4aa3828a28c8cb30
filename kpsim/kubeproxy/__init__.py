"""The pieces of one kube-proxy that no mode changes: trackers, maps, plans, stale flows, health answers, metrics, its runner.

Counterpart: pkg/proxy. ``kpsim.proxier`` puts them together; ``kpsim.backends`` spell plans out. Nothing in here knows packets.
"""
