"""What a kube-proxy does when it starts with a configuration, setting by setting, and what a value costs (CFG, CP-12).

``situation`` puts together what is known: configuration, Node, machine. ``settings`` and ``conditions`` are tables of what is said of
it; ``steps`` tells the steps of a start in their order. ``modes`` alone names the modes.
"""

from kpsim.startup.explaining import Explanation, explain_config

__all__ = ["Explanation", "explain_config"]
