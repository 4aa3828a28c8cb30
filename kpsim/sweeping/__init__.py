"""Many runs of one scenario: over values of its fields, and over seeds.

    kpsim.sweep("mine.yaml", vary={"workloads[web].termination.preStop": ["0s", "4s", "8s"]}, seeds=20)

A sweep says how figures vary, never only what one seed drew. Whoever computes the runs, and in whatever order, its results are
the same bytes.
"""

from kpsim.sweeping.result import SweepResult
from kpsim.sweeping.sweep import sweep

__all__ = ["SweepResult", "sweep"]
