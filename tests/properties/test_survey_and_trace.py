"""A survey's row and a trace of the same packet tell the same: what the client gets, who receives, and with whose source.

The two come to it by different ways: a trace follows each draw of the exchange, a survey puts classes of them together.
"""

from collections import Counter
from fractions import Fraction

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from kpsim.addresses import join_host_port
from kpsim.config import Mode
from kpsim.exchange import Verdict
from kpsim.explore import Cluster, load
from kpsim.surveys import survey
from kpsim.surveys.rows import Row
from kpsim.tracing.names import Client, Way
from kpsim.tracing.site import Sender
from kpsim.tracing.traces import Trace, trace_packet
from kpsim.verify.drawing.choices import SeededChoices
from kpsim.verify.drawing.clusters import draw_manifest

_ASKED = 8  #: ways of one cluster


def traced(cluster: Cluster, way: Way) -> Trace:
    return trace_packet(
        cluster.site, way.packet, node=way.node, sender=way.sender, expand=True, now_ns=cluster.now_ns, any_port=True
    )


def received(found: Trace) -> dict[str, Fraction]:
    """The odds of each receiver."""
    odds: Counter[str] = Counter()
    for weight, outcome in found.outcomes:
        if outcome.seen is not None:
            odds[join_host_port(outcome.seen.dst, outcome.seen.dport)] += weight
    return dict(odds)


@given(st.integers(0, 400), st.sampled_from(Sender), st.sampled_from(Mode), st.integers(0, 1000))
@settings(max_examples=10, deadline=None, phases=(Phase.explicit, Phase.generate))
def test_a_survey_says_what_a_trace_says(seed: int, sender: Sender, mode: Mode, first: int) -> None:
    cluster = load(text=draw_manifest(SeededChoices(seed, "manifest"), mode))
    names = [(s, p) for s in cluster.state.services if s.cluster_ip not in ("", "None") for p in s.ports]
    if not names:
        return
    service, port = names[first % len(names)]
    asked = f"{service.metadata.namespace}/{service.metadata.name}:{port.name or port.port}"
    rows: dict[tuple[str, str, int, str], Row] = {
        (str(row.frontend), row.address, row.port, row.node): row
        for row in survey(cluster, services=[asked], clients=[str(sender)]).rows
    }
    ways = cluster.names.ways(asked, Client(sender), "all")
    for way in [ways[(first + 7 * number) % len(ways)] for number in range(min(_ASKED, len(ways)))]:
        dialled = way.packet.destination, way.packet.dport, way.node
        # a load balancer that dials node ports: one with a host name alone has no address of its own
        row = rows.get((str(way.via), *dialled)) or rows.get(("nodePort", *dialled))
        assert row is not None
        if way.packet.sourced:  # with ipMode Proxy it dials as itself, not as its client
            continue
        found = traced(cluster, way)
        assert row.works == found.verdict.get(Verdict.WORKS, 0)
        assert dict(row.verdicts) == dict(found.verdict)
        assert {each.endpoint: each.odds for each in row.reached} == received(found)
        kept = {not outcome.masquerade for _, outcome in found.outcomes if outcome.seen is not None}
        assert row.source_kept == (kept == {True} if kept else None)
