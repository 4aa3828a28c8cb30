"""Fuzzing: random clusters, probes and packet sequences are sent through the model and through Linux, seed after seed.

``make fuzz`` runs it. A disagreement is made small and kept as a case, a file in ``tests/kernel/cases`` that a kernel
test plays again. The package belongs to the repository, not to kpsim: it builds on ``kpsim.verify``, and kpsim must
not import it.
"""
