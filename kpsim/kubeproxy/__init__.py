"""The pieces of kube-proxy that are the same in all modes: trackers, maps, plans, stale flows, health, metrics, runner.

Counterpart: pkg/proxy. ``kpsim.proxier`` puts the pieces together, and ``kpsim.backends`` turn plans into rules.
"""
