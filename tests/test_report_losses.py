"""Where losses are, and what former endpoints go on answering: what an operator asks of a summary first."""

from dataclasses import replace
from typing import Any

from runlogs import WEB, connection, empty, lost, ms, programming

from kpsim.reports.losses import concentrations
from kpsim.reports.pinned import kept_flows
from kpsim.reports.sentences import traffic_sentence
from kpsim.reports.summary import summary_text
from kpsim.simulation.runlog import Connection, EndpointSpell, Fate, Frontend, Reason, RunLog

OLD, NEW = "10.180.1.5:8080", "10.180.2.5:8080"


def log_of(*connections: Connection) -> RunLog:
    return replace(empty(), connections=sorted(connections, key=lambda c: c.at_ns))


def inside(at_ms: int, **changes: Any) -> Connection:
    """A connection of the Local policy that no load balancer has to do with."""
    return connection(at_ms, **{"frontend": Frontend.CLUSTER_IP, "traffic": "callers", **changes})


def dropped(at_ms: int, **changes: Any) -> Connection:
    return lost(at_ms, Reason.NO_LOCAL_ENDPOINTS, **{"frontend": Frontend.CLUSTER_IP, "traffic": "callers", **changes})


def test_losses_of_internal_traffic_policy_local_are_told_with_their_nodes() -> None:
    """Nothing but the Service's rules on two of three nodes drops; which two is the answer."""
    made = [inside(at) for at in range(0, 3000, 100)]
    made += [dropped(at + each, node=f"node-{each}") for at in range(0, 3000, 100) for each in (2, 3)]
    (found,) = concentrations(log_of(*made))
    assert (found.lost, found.nodes, found.traffic) == (60, ("node-2", "node-3"), ())
    assert (
        f"{WEB}: 60 dropped (no local endpoints), all at node-2 and node-3, from 0.002 s to 2.903 s."
        in summary_text(log_of(*made), width=200)
    )


def test_losses_of_one_source_of_several_are_told_with_what_it_dials() -> None:
    """Source ranges keep pods out and let the world in."""
    made = [connection(at) for at in range(0, 1000, 50)]
    made += [lost(at + 1, Reason.SOURCE_RANGES, traffic="pods") for at in range(0, 1000, 50)]
    (found,) = concentrations(log_of(*made))
    assert (found.traffic, found.frontends, found.nodes) == (("pods",), (Frontend.LOAD_BALANCER,), ())
    assert "20 dropped (source ranges), all of traffic pods, which dials the load balancer, from" in summary_text(
        log_of(*made), width=200
    )


def test_losses_on_the_way_to_one_node_are_told_with_it() -> None:
    """A dead node loses what other nodes send to its endpoints."""
    made = [inside(at, node=node) for at in range(0, 1000, 50) for node in ("node-1", "node-2")]
    made += [
        inside(at, node=node, endpoint=NEW, endpoint_node="node-3", disposition=Fate.FAILED, cause=Reason.NODE_DOWN)
        for at in range(0, 1000, 50)
        for node in ("node-1", "node-2")
    ]
    (found,) = concentrations(log_of(*made))
    assert (found.nodes, found.endpoint_nodes) == ((), ("node-3",))
    assert "40 failed (node down), all sent to endpoints on node-3, from" in summary_text(log_of(*made), width=200)


def test_losses_that_chance_may_have_put_there_are_not_told() -> None:
    """One loss is at one node, whatever the reason; losses at all nodes are nowhere in particular."""
    made = [inside(at, node=f"node-{at % 3}") for at in range(30)]
    assert concentrations(log_of(*made, dropped(50, node="node-1"))) == []
    assert concentrations(log_of(*made, *(dropped(50 + at, node=f"node-{at % 3}") for at in range(30)))) == []


def test_the_node_that_has_most_of_the_losses_is_named() -> None:
    """All nodes lose a little in a rollout; the one whose kube-proxy is stuck loses far more than its share."""
    gone = {"disposition": Fate.FAILED, "cause": Reason.ENDPOINT_GONE}
    made = [inside(at, node=f"node-{at % 3}") for at in range(30)]
    made += [inside(100 + at, node=f"node-{at % 2}") for at in range(160)]
    made += [inside(300 + at, node="node-2", **gone) for at in range(90)]
    made += [inside(400 + at, node=f"node-{at % 2}", **gone) for at in range(10)]
    (found,) = concentrations(log_of(*made))
    assert (found.lost, found.nodes, found.most) == (100, (), ("node-2", 90))
    assert "100 failed (endpoint gone), 90 of them at node-2, from 0.3 s to 0.409 s." in summary_text(
        log_of(*made), width=200
    )


def test_losses_of_the_external_policy_are_left_to_its_own_sentences() -> None:
    made = [connection(at) for at in range(50)]
    made += [lost(at, Reason.NO_LOCAL_ENDPOINTS, node="node-2") for at in range(50)]
    assert concentrations(log_of(*made)) == []


def test_a_long_connection_is_lost_when_it_breaks() -> None:
    made = [inside(at) for at in range(0, 500, 10)]
    made += [
        inside(at, node="node-2", disposition=Fate.FAILED, cause=Reason.NODE_DOWN, broken_ns=ms(8000 + at))
        for at in range(0, 500, 10)
    ]
    (found,) = concentrations(log_of(*made))
    assert (found.first_ns, found.last_ns) == (ms(8000), ms(8490))


def spelled(*connections: Connection, spells: list[EndpointSpell]) -> RunLog:
    change = programming(2000, (30, 10, 10, 50))  # in the rules of node-1 at 2.1 s
    return replace(log_of(*connections), endpoints=spells, programming=[change])


def again(at_ms: int, protocol: str = "SCTP", **changes: Any) -> Connection:
    """One more packet or association of a socket that is used again."""
    return inside(at_ms, **{"new_flow": False, "protocol": protocol, "traffic_policy": "Cluster", **changes})


UNREADY = [EndpointSpell(WEB, OLD, "node-1", 0, ms(2030)), EndpointSpell(WEB, NEW, "node-2", 0)]


def test_what_a_former_endpoint_goes_on_answering_is_told() -> None:
    """CT-2.1, CT-5.2: an SCTP association keeps its entry, and no clean-up deletes it; nothing is lost, and yet."""
    log = spelled(*(again(at) for at in (1000, 2050, 2500, 3000)), spells=UNREADY)
    (kept,) = kept_flows(log)
    assert (kept.endpoint, kept.since_ns, kept.start_ns, kept.connections, kept.flows) == (
        OLD,
        ms(2100),
        ms(2500),
        2,
        1,
    )
    assert (
        f"node-1, {WEB}, from 2.5 s to 3 s: 2 delivered to {OLD}, a former endpoint: not in the rules since 2.1 s; an entry "
        "leads the flow there (CT-5.2); the clean-up never touches entries of this protocol (CT-2.1)."
    ) in summary_text(log, width=300)


def test_an_endpoint_that_is_back_or_that_the_rules_may_fall_back_to_is_no_former_one() -> None:
    """T-2: rules lead to terminating endpoints if none is ready; under Local, if none is ready on the node."""
    back = [*UNREADY, EndpointSpell(WEB, OLD, "node-1", ms(2400))]
    assert kept_flows(spelled(again(2500), spells=back)) == []
    alone = UNREADY[:1]
    assert kept_flows(spelled(again(2500), spells=alone)) == []
    assert kept_flows(spelled(again(2500, traffic_policy="Local"), spells=UNREADY)) == []
    assert kept_flows(spelled(again(2500, new_flow=True), spells=UNREADY)) == []


def test_one_connection_is_singular() -> None:
    assert traffic_sentence(log_of(dropped(1))).startswith("0 of 1 connection was delivered (0 %)")
