"""Measures what the tools of a sync cost on this machine, and fits prices to it (``kpsim calibrate``).

Counterpart: kube-proxy's own measurement, sync_proxy_rules_duration_seconds, without kube-proxy. What its process takes
to make the rules is not in here.
"""

from kpsim.calibration.fitting import Fit, Sample, fitted
from kpsim.calibration.measuring import Calibration, measure
from kpsim.calibration.writing import costs_text

__all__ = ["Calibration", "Fit", "Sample", "costs_text", "fitted", "measure"]
