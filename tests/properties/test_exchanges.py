"""What must be true of every exchange, whatever the cluster: odds, agreement with the one node's answer, no trace left."""

import pytest

from kpsim.errors import InputError
from kpsim.exchange import Verdict
from kpsim.explore import Cluster, load
from kpsim.tracing.probes import Probe, Prober, ProbeResult
from kpsim.tracing.traces import trace_packet
from kpsim.verify.drawing.choices import SeededChoices
from kpsim.verify.drawing.clusters import draw_manifest
from kpsim.verify.drawing.probes import draw_probes

PROBES = 12
#: what can become of an exchange whose request ended so at the first node
POSSIBLE = {
    ProbeResult.REJECTED: {Verdict.REFUSED, Verdict.REQUEST_LOST},
    ProbeResult.DROPPED: {Verdict.REFUSED, Verdict.REQUEST_LOST},  # EPERM tells a process that its datagram was dropped
    ProbeResult.UNKNOWN: {Verdict.UNKNOWN},
}


def questions(cluster: Cluster, seed: int) -> list[Probe]:
    node = cluster.node_names[seed % len(cluster.node_names)]
    family = cluster.families[seed % len(cluster.families)]
    choices = SeededChoices(seed, "probes")
    return draw_probes(choices, cluster.site, node, family, PROBES, cluster.state.services)


@pytest.mark.parametrize("seed", range(10))
def test_exchanges_of_drawn_clusters(seed: int) -> None:
    cluster = load(text=draw_manifest(SeededChoices(seed, "manifest")))
    site = cluster.site
    prober, again = Prober(site, cluster.now_ns), Prober(site, cluster.now_ns)
    asked = 0
    for probe in questions(cluster, seed):
        try:
            answer = prober.answer(probe)
        except InputError:  # no sender of this kind
            continue
        asked += 1
        assert sum(answer.exchange.values()) == 1
        assert set(answer.exchange) <= POSSIBLE.get(answer.result, set(Verdict))
        trace = trace_packet(
            site, probe.packet, node=probe.node, sender=probe.sender, expand=True, now_ns=cluster.now_ns
        )  # fmt: skip
        assert trace.verdict == answer.exchange
        assert sum(weight for weight, _ in trace.outcomes) == 1
        assert trace.exchange is not None
        assert trace.exchange.verdict in answer.exchange
        for _, outcome in trace.outcomes:
            assert (outcome.verdict in (Verdict.WORKS, Verdict.MISDELIVERED)) <= (outcome.seen is not None)
            assert (outcome.verdict is Verdict.REQUEST_LOST) <= (outcome.seen is None or outcome.by is None)
        netns = site.netns(probe.node, probe.packet.family)
        assert len(netns.conntrack) == 0
        assert len(netns.memory.recent) == 0
        assert again.answer(probe) == answer
    assert asked
