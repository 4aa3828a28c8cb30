"""The scenario run: control plane, proxiers, packets and faults on one clock, ending in a run log (a value).

pods ──► kubelets ──► API server ──► slice controller ──► API server ──► kube-proxies ──► kernels ◄── traffic
                          ▲                                                    │
                  scenario events                                    load balancers probe
"""

from kpsim.simulation.run import Progress, run

__all__ = ["Progress", "run"]
