"""A run in which nothing is drawn ends alike in every mode, wherever the modes do the same with packets (12, NFT-12)."""

import math

from simulations import simulate

from kpsim.reports.figures import figures
from kpsim.simulation.runlog import RunLog

#: one endpoint, so that no endpoint is drawn; on node-2 there is none
ONE_ENDPOINT = ("workloads[0].replicas=1", "objects[0].spec.sessionAffinity=ClientIP", "duration=12s")
RUN = """
events:
  - {at: 3s, patchService: {service: web, patch: {spec: {externalTrafficPolicy: Local}}}}
  - {at: 6s, deletePods: {workload: web, force: true}}
traffic:
  - {name: outside, from: outside, service: web, via: nodePort, perSecond: 20}
  - {name: nodes, from: nodes, service: web, perSecond: 5}
  - {name: pods, from: pods, workload: web, service: web, perSecond: 5}
"""


def told(log: RunLog) -> dict[str, object]:
    """All figures; those that nothing was measured for are left out."""
    found: dict[str, object] = dict(figures(log))
    return {name: value for name, value in found.items() if not (isinstance(value, float) and math.isnan(value))}


def test_figures_do_not_depend_on_the_mode() -> None:
    """Local policy, no endpoints, hairpins, affinity, refusals and their rate, the way of each change to the rules."""
    logs = [simulate(RUN, *ONE_ENDPOINT, f"proxy.mode={mode}") for mode in ("iptables", "nftables")]
    assert told(logs[0]) == told(logs[1])
    causes = {str(each.cause) for each in logs[1].connections}
    assert causes == {"", "no endpoints", "no local endpoints", "refusal rate limited"}
    assert all(each.rule.startswith("kube-proxy/") for each in logs[1].connections if each.cause == "no endpoints")
    assert [sync.rules_nat for sync in logs[1].syncs] == [0] * len(logs[1].syncs)


def test_the_address_of_a_deleted_service_is_dropped_where_a_mode_reads_service_cidrs() -> None:
    """Every API server has a ServiceCIDR (NFT-1.10, NFT-5.9). iptables mode lets such packets go to the default route."""
    events = """
events:
  - {at: 2s, deleteService: {service: web}}
traffic:
  - {name: pods, from: pods, workload: web, service: web, perSecond: 5}
"""
    dropped = {
        mode: {each.rule for each in simulate(events, "duration=6s", f"proxy.mode={mode}").connections if each.cause}
        for mode in ("iptables", "nftables")
    }
    assert dropped["iptables"] == {""}
    (rule,) = dropped["nftables"]
    assert rule.startswith("kube-proxy/cluster-ips-check") and "Drop traffic to unallocated ClusterIPs" in rule
