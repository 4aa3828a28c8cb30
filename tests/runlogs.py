"""Builds run logs by hand for tests of reports, in the address plan."""

from dataclasses import replace

from kpsim.simulation.runlog import (
    Balancer,
    CleanUp,
    Connection,
    Fate,
    Frontend,
    Happening,
    HappeningKind,
    NodeHealth,
    Pin,
    PinKind,
    Programming,
    Reason,
    RunLog,
    Sync,
    WatchWrite,
)
from kpsim.units import MILLISECOND_NS, SECOND_NS

WEB = "shop/web:http"
API = "shop/api:grpc"


def ms(number: int) -> int:
    return number * MILLISECOND_NS


def connection(at_ms: int, **changes: object) -> Connection:
    """A delivered connection from outside to node-1's endpoint of shop/web through the load balancer."""
    delivered = Connection(
        at_ns=ms(at_ms),
        traffic="shoppers",
        client="203.0.113.10",
        source_ip="203.0.113.10",
        source_port=40000,
        frontend=Frontend.LOAD_BALANCER,
        service=WEB,
        protocol="TCP",
        traffic_policy="Local",
        node="node-1",
        disposition=Fate.DELIVERED,
        cause=Reason.NONE,
        endpoint="10.180.1.5:8080",
        endpoint_node="node-1",
        seen_source_ip="203.0.113.10",
        new_flow=True,
        rule="",
        session_affinity=False,
    )
    return replace(delivered, **changes)  # type: ignore[arg-type]


def lost(at_ms: int, cause: Reason, disposition: Fate = Fate.DROPPED, **changes: object) -> Connection:
    """A connection that got no endpoint."""
    gone = {"endpoint": "", "endpoint_node": "", "seen_source_ip": ""}
    return connection(at_ms, **{"cause": cause, "disposition": disposition, **gone, **changes})


def sticky(at_ms: int, client: str, endpoint: str, broke: str = "", **changes: object) -> Connection:
    """A connection of a pod to the cluster IP of shop/api, which has ClientIP affinity."""
    inside = {
        "traffic": "callers", "client": client, "source_ip": client, "frontend": Frontend.CLUSTER_IP, "service": API,
        "traffic_policy": "Cluster", "endpoint": endpoint, "session_affinity": True, "affinity_break": broke,
    }  # fmt: skip
    return connection(at_ms, **{**inside, **changes})


def health(at_ms: int, node: str, *, in_rotation: bool, check_passes: bool, usable: int) -> NodeHealth:
    return NodeHealth(ms(at_ms), "shop/web", node, in_rotation, check_passes, usable, usable)


def programming(
    trigger_ms: int, stages_ms: tuple[int, int, int, int], *, node: str = "node-1", reported_ms: int | None = None
) -> Programming:
    """A change whose four stages take these times."""
    ends = [trigger_ms + sum(stages_ms[: i + 1]) for i in range(4)]
    return Programming(
        "EndpointSlice shop/web-1 @ 1", "shop/web", node, "IPv4", ms(trigger_ms), *(ms(end) for end in ends),
        None if reported_ms is None else ms(reported_ms),
    )  # fmt: skip


def sync(start_ms: int, took_ms: int, *, node: str = "node-1", full: bool = False, success: bool = True) -> Sync:
    return Sync(node, "IPv4", ms(start_ms), ms(start_ms + took_ms), full, success, ms(start_ms - 1), 1, 40, 12)


def empty() -> RunLog:
    return RunLog("empty", 1, 10 * SECOND_NS, "iptables")


def story() -> RunLog:
    """Ten seconds in which node-2 loses its endpoint at 2 s and the load balancer notices at 5 s.

    shop/web (Local): 4 delivered, 3 dropped at node-2 because it has no local endpoint (2.5 s, 3 s, 4 s), 1 rejected
    because there are no endpoints. shop/api (Cluster, affinity): client .1 comes three times and breaks once; client .2
    comes once; its connection breaks at 9.5 s, when its endpoint has been out of the rules for two seconds.
    """
    return RunLog(
        scenario="story",
        seed=7,
        duration_ns=10 * SECOND_NS,
        mode="iptables",
        connections=[
            connection(1000),
            connection(1500, node="node-2", endpoint="10.180.2.5:8080", endpoint_node="node-2"),
            sticky(2000, "10.180.1.1", "10.180.1.7:9000"),
            lost(2500, Reason.NO_LOCAL_ENDPOINTS, node="node-2"),
            lost(3000, Reason.NO_LOCAL_ENDPOINTS, node="node-2"),
            sticky(3500, "10.180.1.1", "10.180.1.7:9000"),
            lost(4000, Reason.NO_LOCAL_ENDPOINTS, node="node-2"),
            connection(6000, closes_ns=ms(9000)),
            sticky(6500, "10.180.1.1", "10.180.2.7:9000", "endpoint gone", endpoint_node="node-2"),
            sticky(
                7000,
                "10.180.1.2",
                "10.180.1.7:9000",
                disposition=Fate.FAILED,
                cause=Reason.ENDPOINT_GONE,
                broken_ns=ms(9500),
                pin=Pin(
                    PinKind.FORMER_ENDPOINT, "node-1", ms(7000), "10.180.1.7:9000", ms(7500), CleanUp.NOT_ITS_PROTOCOL
                ),
            ),
            connection(8000),
            lost(9000, Reason.NO_ENDPOINTS, Fate.REJECTED),
        ],
        syncs=[sync(100, 40, full=True), sync(2100, 20, node="node-2"), sync(2150, 30, success=False)],
        programming=[
            programming(1000, (100, 10, 40, 50), reported_ms=190),
            programming(2000, (100, 20, 200, 80), node="node-2", reported_ms=390),
            programming(2000, (100, 20, 600, 280)),
        ],
        node_health=[
            health(0, "node-1", in_rotation=True, check_passes=True, usable=1),
            health(0, "node-2", in_rotation=True, check_passes=True, usable=1),
            health(2000, "node-2", in_rotation=True, check_passes=False, usable=0),
            health(5000, "node-2", in_rotation=False, check_passes=False, usable=0),
        ],
        happenings=[
            Happening(ms(1900), HappeningKind.NODE_CORDONED, "node-2"),
            Happening(ms(2000), HappeningKind.POD_GONE, "shop/web-2", "on node-2"),
            Happening(ms(2180), HappeningKind.SYNC_FAILED, "node-1"),
        ],
        zones={"node-1": "a", "node-2": "b"},
        balancers=[Balancer("shop/web", "", ms(1500), 2, ms(4500))],
        watched=[WatchWrite(ms(2040), "EndpointSlice", "MODIFIED", "web-1", "shop/web", 1, 900, 2, 1)],
    )
