"""Traffic on the clock: packets, the end of pods and Services, load balancers, and determinism."""

import hashlib
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
from simulations import DELAYS, HEAD, INSIDE, MS, of, simulate

from kpsim.reports.figures import figures
from kpsim.reports.sentences import note_lines
from kpsim.scenario import parse_scenario
from kpsim.simulation import run
from kpsim.simulation.ports import SourcePorts
from kpsim.simulation.runlog import Fate, Reason, RunLog
from kpsim.units import SECOND_NS

# ------------------------------------------------------------------------------------------------------------- packets


def test_a_packet_at_the_instant_of_new_rules_meets_them() -> None:
    events = """
events: [{at: 5s, patchService: {service: web, patch: {spec: {ports: [{port: 81, targetPort: 8080, nodePort: 30080}]}}}}]
traffic: [{name: t, from: nodes, nodes: [node-1], service: web, perSecond: 1}]
"""
    zero = "delays: {apiWrite: 0s, watchDelivery: 0s, sync: {base: 0s, perRule: 0s}}\n"
    log = simulate(events, "duration=7s", delays=zero)
    assert {c.disposition for c in log.connections} == {Fate.DELIVERED}
    assert len(log.connections) == 7


def test_an_established_connection_outlives_its_endpoint_in_the_rules_and_ends_with_the_pod() -> None:
    events = """
events: [{at: 5s, scale: {workload: web, replicas: 1}}]
traffic:
  - {name: t, from: nodes, nodes: [node-1], service: web, perSecond: 10, stop: 2s, long: {lasts: 30s, packetEvery: 1s}}
"""
    log = simulate(events, "duration=40s", "workloads[0].termination={preStop: 10s}")
    assert len(log.connections) == 20 and all(c.established for c in log.connections)  # one record each
    # web-2 leaves the rules at about 5.1 s and exits at 15.007 s: its connections break then and not before (CT-2.6)
    broken = [c for c in log.connections if c.endpoint_node == "node-2"]
    assert 0 < len(broken) < len(log.connections)
    assert {(c.disposition, c.cause) for c in broken} == {(Fate.FAILED, Reason.ENDPOINT_GONE)}
    assert all(15_007 * MS <= c.broken_ns < 16_007 * MS for c in broken)
    rest = [c for c in log.connections if c.endpoint_node != "node-2"]
    assert {(c.disposition, c.broken_ns) for c in rest} == {(Fate.DELIVERED, None)}
    found = figures(log)
    assert (found["sent"], found["established"], found["broken"]) == (20, 20, len(broken))
    assert found["broken_ratio"] == found["failed_ratio"] == len(broken) / 20


def test_an_open_connection_does_not_outlive_its_application_even_if_another_one_answers() -> None:
    """The new container's kernel knows no such socket and resets the connection (CT-2.6)."""
    text = """
events: [{at: 5s, crash: {workload: web, count: 2}}]
traffic:
  - {name: t, from: nodes, nodes: [node-1], service: web, perSecond: 10, stop: 1s, long: {lasts: 30s, packetEvery: 4s}}
"""
    log = simulate(text, "duration=20s")  # both answer again at 6 s, two seconds before the next packet of the first
    assert {(c.disposition, c.cause) for c in log.connections} == {(Fate.FAILED, Reason.ENDPOINT_GONE)}
    assert [(c.at_ns // MS, c.broken_ns // MS) for c in log.connections] == [
        (100 * number, 8000 + 100 * number) for number in range(10)
    ]


@pytest.mark.parametrize(
    ("via", "patch", "expected"),
    [
        # an unlisted port of a cluster IP leaks (K-8.2); on the node's own address its kernel answers
        ("clusterIP", "{ports: [{name: alt, port: 81, targetPort: 8080}]}", (Fate.DROPPED, Reason.NOT_CAPTURED)),
        (
            "nodePort",
            "{type: ClusterIP, ports: [{name: http, port: 80, targetPort: 8080}]}",
            (Fate.REJECTED, Reason.NOT_CAPTURED),
        ),
        ("externalIP", "{externalIPs: null}", (Fate.DROPPED, Reason.NOT_CAPTURED)),
    ],
)
def test_clients_go_on_dialling_what_a_service_has_lost(via: str, patch: str, expected: object) -> None:
    text = f"""
events: [{{at: 2s, patchService: {{service: web, patch: {{spec: {patch}}}}}}}]
traffic: [{{name: t, service: web, port: http, via: {via}, nodes: [node-1], perSecond: 10}}]
"""
    settings = ("objects[0].spec.ports[0].name=http", "objects[0].spec.externalIPs=[198.51.100.9]", "duration=4s")
    log = simulate(text, *settings)
    assert len(log.connections) == 40
    # 2.007 written, +19 delivered, +23 in force
    assert {c.disposition for c in log.connections if c.at_ns < 2049 * MS} == {Fate.DELIVERED}
    late = [c for c in log.connections if c.at_ns >= 2049 * MS]
    assert {(c.disposition, c.cause) for c in late} == {expected} and {c.node for c in late} == {"node-1"}


def test_what_nobody_listens_on_is_refused_by_the_node_itself() -> None:
    # after the Service is deleted and its rules are gone, the node port is a closed port of the node (PP-7.2)
    events = "events: [{at: 2s, deleteService: {service: web}}]\n"
    traffic = "traffic: [{name: t, service: web, via: nodePort, nodes: [node-1], perSecond: 10}]\n"
    log = simulate(events + traffic, "duration=6s")
    late = [c for c in log.connections if c.at_ns > 3 * SECOND_NS]
    assert {(c.disposition, c.cause, c.endpoint) for c in late} == {(Fate.REJECTED, Reason.NOT_CAPTURED, "")}


def test_no_endpoints_are_rejected_as_often_as_linux_answers() -> None:
    traffic = "traffic: [{name: t, service: web, via: nodePort, nodes: [node-1], perSecond: 10}]\n"
    log = simulate(traffic, "duration=10s", "workloads[0].replicas=0")
    # 6 answers at once, then one a second (K-3.4); the rest is silence
    ends = Counter((c.disposition, c.cause) for c in log.connections)
    assert ends == {
        (Fate.REJECTED, Reason.NO_ENDPOINTS): 6 + 9,
        (Fate.DROPPED, Reason.RATE_LIMITED): 100 - 15,
    }
    unlimited = simulate(traffic, "duration=10s", "workloads[0].replicas=0", "icmpRateLimit=false")
    assert Counter((c.disposition, c.cause) for c in unlimited.connections) == {
        (Fate.REJECTED, Reason.NO_ENDPOINTS): 100
    }


def test_clients_behind_one_address_share_its_refusals() -> None:  # K-3.4: per client address
    traffic = "traffic: [{name: t, service: web, via: nodePort, nodes: [node-1], perSecond: 20, clients: 10%s}]\n"
    apart = simulate(traffic % "", "duration=1s", "workloads[0].replicas=0")
    together = simulate(traffic % ", nat: true", "duration=1s", "workloads[0].replicas=0")
    assert (len(of(apart, Fate.REJECTED)), len(of(together, Fate.REJECTED))) == (20, 6)


def test_processes_of_a_node_are_refused_every_time() -> None:  # K-3.4: no limit of their own
    traffic = "traffic: [{name: t, from: nodes, service: web, nodes: [node-1], perSecond: 40}]\n"
    log = simulate(traffic, "duration=5s", "workloads[0].replicas=0")
    assert {(c.disposition, c.cause) for c in log.connections} == {(Fate.REJECTED, Reason.NO_ENDPOINTS)}


def test_a_node_whose_connection_table_is_full_loses_new_connections() -> None:  # CT-7.2, K-6.7
    traffic = "traffic: [{name: t, service: web, via: nodePort, nodes: [node-1], perSecond: 50}]\n"
    proxy = "proxy={conntrack: {maxPerCore: 1, min: 100}}"
    log = simulate(traffic, "duration=10s", proxy)
    assert {c.cause for c in log.connections[:95]} == {Reason.NONE}
    full = [c for c in log.connections if c.cause is Reason.TABLE_FULL]
    assert {c.disposition for c in full} == {Fate.DROPPED}
    assert len(full) > 350  # closed connections stay for two minutes, and they are assured


def test_source_addresses_as_the_endpoint_sees_them() -> None:
    traffic = """
traffic:
  - {name: outside, service: web, via: nodePort, nodes: [node-1], perSecond: 20}
  - {name: pods, from: pods, workload: web, service: web, perSecond: 20}
"""
    log = simulate(traffic, "duration=5s")
    seen = {(c.traffic, c.endpoint_node, c.seen_source_ip) for c in log.connections if c.client != "web-2"}
    assert seen == {
        ("outside", "node-1", "10.180.1.1"),  # masqueraded to the bridge toward a local pod (PP-11.4)
        ("outside", "node-2", "192.168.0.1"),  # and to the uplink toward a remote one (PP-11.5)
        ("pods", "node-1", "10.180.1.1"),  # hairpin: the pod reaches itself (PP-1.6)
        ("pods", "node-2", "10.180.1.2"),  # kept (PP-3.2)
    }


# --------------------------------------------------------------------------------------------------------- determinism

RANDOM = """
events:
  - {at: 3s, rollout: {workload: web}}
  - {at: 4s, failSyncs: {nodes: [node-2], count: 1}}
traffic:
  - {name: t, service: web, via: nodePort, perSecond: 40, arrivals: poisson, clients: 5}
  - {name: u, from: pods, workload: web, service: web, perSecond: 10}
"""


def digest(log: RunLog) -> str:
    return hashlib.sha256(repr(log).encode()).hexdigest()


def test_equal_seeds_give_equal_logs_and_others_do_not() -> None:
    settings = ("duration=8s", "delays.watchDelivery={uniform: {low: 1ms, high: 50ms}}")
    first, again, other = (simulate(RANDOM, *settings, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.connections != other.connections
    assert (other.seed, other.duration_ns, other.mode) == (2, 8 * SECOND_NS, "iptables")


def test_another_process_with_other_hash_seeds_gives_the_same_log() -> None:
    program = (
        "import hashlib, sys; from kpsim.scenario import load_scenario; from kpsim.simulation import run;"
        "print(hashlib.sha256(repr(run(load_scenario(sys.argv[1], settings=sys.argv[2:]))).encode()).hexdigest())"
    )
    arguments = ["local-rollout", "duration=16s", "traffic[0].perSecond=20", "traffic[0].arrivals=poisson"]
    digests = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", program, *arguments]
        digests.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(digests) == 1


def test_another_traffic_source_leaves_the_others_alone() -> None:
    extra = "  - {name: v, from: nodes, service: web, perSecond: 15}\n"
    alone, together = simulate(RANDOM, "duration=6s"), simulate(RANDOM + extra, "duration=6s")
    assert [c for c in together.connections if c.traffic != "v"] == alone.connections


@pytest.mark.parametrize("kind", ["", ", sourcePorts: 3", ", long: {lasts: 4s}"])
def test_two_sources_of_one_sender_use_different_ports(kind: str) -> None:
    """A kernel has no two sockets with the same tuple, and each flow is its own: nat is consulted for it (K-1.3)."""
    protocol = "TCP" if "long" in kind else "UDP"
    ports = (
        f"objects[0].spec.ports=[{{port: 80, targetPort: 8080, protocol: {protocol}}}]",
        f"workloads[0].ports=[{{containerPort: 8080, protocol: {protocol}}}]",
        "duration=6s",
    )
    one = f"  - {{name: one, from: nodes, service: web, perSecond: 20{kind}}}\n"
    two = f"  - {{name: two, from: nodes, service: web, port: 80, perSecond: 20, start: 1s{kind}}}\n"
    alone, together = simulate(f"traffic:\n{one}", *ports), simulate(f"traffic:\n{one}{two}", *ports)
    used = [{(c.client, c.source_port) for c in together.connections if c.traffic == name} for name in ("one", "two")]
    assert used[0].isdisjoint(used[1]) and all(used)
    assert {c.disposition for c in together.connections} == {Fate.DELIVERED}
    flows = sum(c.new_flow for c in together.connections if c.traffic == "two")
    assert flows == (2 * 3 if "sourcePorts" in kind else 100)
    first = [replace(c, source_port=0) for c in together.connections if c.traffic == "one"]
    assert first == [replace(c, source_port=0) for c in alone.connections]


def test_ports_in_use_are_left_out() -> None:
    ports = SourcePorts()
    assert [ports.fresh("a", "x") for _ in range(2)] == [32768, 32769]
    assert ports.fresh("b", "x") == ports.fresh("a", "y") == 32768  # other senders and destinations do not matter
    assert [ports.socket("a", "x", "s", 0), ports.socket("a", "x", "s", 1), ports.socket("a", "x", "s", 0)] == [
        32770,
        32771,
        32770,
    ]
    ports.occupy("a", "x", 32768)
    for _ in range(28232 - 4):
        ports.fresh("a", "x")
    assert ports.fresh("a", "x") == 32769  # all round, but not the open one
    ports.release("a", "x", 32768)
    assert 32768 in [ports.fresh("a", "x") for _ in range(28232)]


def test_a_source_before_another_does_not_change_where_the_load_balancer_sends_it() -> None:
    before = "traffic: [{name: s, service: web, via: loadBalancer, perSecond: 10, clients: 7}, {name: t,"
    alone, together = (
        simulate(BALANCED, *WITH_VIP),
        simulate(BALANCED.replace("traffic: [{name: t,", before), *WITH_VIP),
    )
    told = [[(c.at_ns, c.node, c.endpoint) for c in log.connections if c.traffic == "t"] for log in (alone, together)]
    assert told[0] == told[1] and len({node for _, node, _ in told[0]}) == 2


# ------------------------------------------------------------------------------------------------- endings and Services


def test_readiness_that_fails_on_sigterm_takes_the_endpoint_out_of_service() -> None:
    # preStop 2 s, then 5 s more of service, but not ready 1 s after SIGTERM: the endpoint is terminating and not serving (CP-2.8)
    events = "events: [{at: 5s, scale: {workload: web, replicas: 0}}]\n"
    ending = "workloads[0].termination={preStop: 2s, afterSigterm: 5s, unreadyAfterSigterm: 1s}"
    log = simulate(events + INSIDE, "duration=20s", ending)
    assert [h.at_ns // MS for h in log.happenings if h.kind == "pod not ready"] == [8007, 8007]
    assert [h.at_ns // MS for h in log.happenings if h.kind == "pod gone"] == [12_007, 12_007]
    # 8.007 +11+7 written, +13 seen, +17 slice, +19 delivered, +23 synced: all endpoints are out of the rules (T-4 row 11)
    # although the applications answer; before that the terminating ones are all there is (T-2)
    assert {c.disposition for c in log.connections if c.at_ns < 8097 * MS} == {Fate.DELIVERED}
    assert {c.cause for c in log.connections if c.at_ns >= 8097 * MS} == {Reason.NO_ENDPOINTS}


def test_an_application_that_stops_with_the_hook_is_missed_at_once() -> None:
    events = "events: [{at: 5s, scale: {workload: web, replicas: 1}}]\n"
    ending = "workloads[0].termination={preStop: 5s, servesDuringPreStop: false}"
    log = simulate(events + INSIDE, "duration=20s", ending)
    gone = of(log, Fate.FAILED)
    # from the deletion in the API, 5.007, to the rules of 5.079
    assert {c.cause for c in gone} == {Reason.ENDPOINT_GONE}
    assert all(5007 * MS <= c.at_ns < 5079 * MS for c in gone)


def test_the_grace_period_ends_a_hook_that_is_too_long() -> None:
    events = "events: [{at: 5s, scale: {workload: web, replicas: 1}}]\n"
    log = simulate(events, "duration=20s", "workloads[0].termination={preStop: 1m, grace: 3s}")
    assert [h.at_ns // MS for h in log.happenings if h.kind == "pod gone"] == [8007]


def test_a_service_that_is_deleted_and_made_anew() -> None:
    events = """
events:
  - {at: 3s, deleteService: {service: web}}
  - at: 6s
    createService:
      apiVersion: v1
      kind: Service
      metadata: {name: web}
      spec: {clusterIP: 172.30.0.10, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
"""
    log = simulate(events + INSIDE, "duration=12s")
    # 3.007 gone, +19 delivered, +23 synced: then nothing captures the cluster IP (PP-2)
    without = [c for c in log.connections if 3049 * MS <= c.at_ns < 6 * SECOND_NS]
    assert {(c.disposition, c.cause) for c in without} == {(Fate.DROPPED, Reason.NOT_CAPTURED)}
    # the new one has no slices at first, and is rejected; its slices follow: 6.007, +13 seen, +17, +19; the next sync may only
    # start a second after the one for the Service has ended, 6.026 + 23
    by_ms = [(c.at_ns // MS, c.cause) for c in log.connections if c.at_ns >= 6 * SECOND_NS]
    assert {cause for at, cause in by_ms if at < 6049} == {Reason.NOT_CAPTURED}
    assert {cause for at, cause in by_ms if 6049 <= at < 7072} == {Reason.NO_ENDPOINTS}
    assert {cause for at, cause in by_ms if at >= 7072} == {Reason.NONE}
    # its first slices carry the time of its creation (CP-3.7.1)
    samples = [row.reported_ns for row in log.programming if row.node == "node-1" and row.reported_ns is not None]
    assert samples == [1072 * MS]


def test_host_network_pods_share_their_nodes_address() -> None:
    log = simulate(INSIDE, "duration=3s", "workloads[0].hostNetwork=true")
    assert {c.endpoint for c in log.connections} == {"192.168.0.1:8080", "192.168.0.2:8080"}
    assert {c.disposition for c in log.connections} == {Fate.DELIVERED}


def test_what_a_pod_does_not_listen_on_is_refused_by_it() -> None:
    log = simulate(INSIDE, "duration=3s", "workloads[0].ports=[{containerPort: 9090}]")
    assert {(c.disposition, c.cause) for c in log.connections} == {(Fate.FAILED, Reason.ENDPOINT_GONE)}


BALANCED = """
loadBalancer: {interval: 1s, unhealthyThreshold: 2, healthyThreshold: 3}
traffic: [{name: t, service: web, via: loadBalancer, perSecond: 50, clients: 20}]
"""
WITH_VIP = (
    "objects[0].spec.type=LoadBalancer",
    "objects[0].status={loadBalancer: {ingress: [{ip: 198.51.100.10}]}}",
    "duration=20s",
)


def test_a_load_balancer_leaves_a_node_whose_kube_proxy_is_down() -> None:
    events = "events: [{at: 5s, restartProxy: {nodes: [node-2], down: 6s}}]\n"
    log = simulate(events + BALANCED, *WITH_VIP)
    assert of(log, Fate.DELIVERED) == log.connections  # the rules outlive the process
    rotation = [(r.at_ns, r.in_rotation) for r in log.node_health if r.node == "node-2"]
    left_ns = next(at for at, believed in rotation if not believed)
    back_ns = next(at for at, believed in rotation if believed and at > left_ns)
    # /healthz is silent from 5 s and answers again at 11 s (CP-14): the 2nd bad probe, the 3rd good one
    assert 6 * SECOND_NS < left_ns <= 7 * SECOND_NS and 13 * SECOND_NS < back_ns <= 14 * SECOND_NS
    assert not [c for c in log.connections if c.node == "node-2" and left_ns <= c.at_ns < back_ns]


def test_without_a_node_in_rotation_nothing_gets_in() -> None:
    events = "events: [{at: 5s, restartProxy: {down: 10s}}]\n"
    log = simulate(events + BALANCED, *WITH_VIP)
    late = [c for c in log.connections if 7 * SECOND_NS < c.at_ns < 15 * SECOND_NS]
    assert {(c.disposition, c.cause, c.node) for c in late} == {(Fate.DROPPED, Reason.NO_HEALTHY_NODE, "")}


def test_a_load_balancer_of_a_service_that_is_not_there_probes_a_port_that_nobody_opens() -> None:
    """It goes by the Service as it was, or will be: the health check node port is closed with the sync (CP-15.3)."""
    local = ("objects[0].spec.externalTrafficPolicy=Local",)
    deleted = simulate("events: [{at: 5s, deleteService: {service: web}}]\n" + BALANCED, *WITH_VIP, *local)
    late = [c for c in deleted.connections if c.at_ns > 8 * SECOND_NS]
    assert {(c.disposition, c.cause, c.node) for c in late} == {(Fate.DROPPED, Reason.NO_HEALTHY_NODE, "")}
    made = (
        "events=[{at: 0s, deleteService: {service: web}}, {at: 5s, createService: {apiVersion: v1, kind: Service, metadata: "
        "{name: web}, spec: {type: LoadBalancer, externalTrafficPolicy: Local, selector: {app: web}, ports: [{port: 80, "
        "targetPort: 8080}]}}}]",
    )
    log = simulate(BALANCED, *WITH_VIP, *local, *made)
    # programmed a little after 5 s, and in rotation with the third good probe
    assert {c.cause for c in log.connections if 3 * SECOND_NS < c.at_ns < 7 * SECOND_NS} == {Reason.NO_HEALTHY_NODE}
    assert {c.disposition for c in log.connections if c.at_ns > 10 * SECOND_NS} == {Fate.DELIVERED}


def test_clients_outside_keep_their_address_under_the_local_policy_only() -> None:
    cluster = simulate(BALANCED, *WITH_VIP)
    assert not any(
        c.seen_source_ip.startswith("203.0.113.") for c in cluster.connections
    )  # PP-4: masqueraded for every client
    local = simulate(BALANCED, *WITH_VIP, "objects[0].spec.externalTrafficPolicy=Local")
    assert all(c.seen_source_ip == c.source_ip == c.client for c in local.connections)  # PP-5
    assert {c.traffic_policy for c in local.connections} == {"Local"}
    assert all(c.node == c.endpoint_node for c in local.connections)


def test_session_affinity_times_out() -> None:
    affinity = "objects[0].spec={type: NodePort, clusterIP: 172.30.0.10, selector: {app: web}, sessionAffinity: ClientIP, " \
        "sessionAffinityConfig: {clientIP: {timeoutSeconds: 4}}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}"  # fmt: skip
    traffic = "traffic: [{name: t, service: web, via: nodePort, nodes: [node-1], perSecond: %s, clients: 20}]\n"
    # every client comes back after 2 s: within the timeout, refreshed each time (CT-8)
    stays = simulate(traffic % 10, affinity, "duration=20s")
    assert {c.affinity_break for c in stays.connections} == {""}
    # every client comes back after 5 s: forgotten each time; half of them by chance get the other endpoint
    breaks = simulate(traffic % 4, affinity, "duration=60s")
    causes = {c.affinity_break for c in breaks.connections}
    assert causes == {"", "timeout"}
    broken = sum(c.affinity_break != "" for c in breaks.connections)
    assert 80 <= broken <= 140  # of 220 returns; standard deviation 7.4


def test_a_node_that_leaves_the_rotation_moves_only_its_own_flows() -> None:
    events = "events: [{at: 5s, restartProxy: {nodes: [node-2], down: 15s}}]\n"
    balanced = BALANCED.replace("clients: 20", "clients: 20, sourcePorts: 1")
    log = simulate(events + balanced, *WITH_VIP, "nodes.count=4", "workloads[0].replicas=4")
    before = {c.client: c.node for c in log.connections if c.at_ns < 5 * SECOND_NS}
    after = {c.client: c.node for c in log.connections if c.at_ns > 8 * SECOND_NS}
    moved = {client for client in before if before[client] != after[client]}
    assert moved == {client for client in before if before[client] == "node-2"} != set()


@pytest.mark.parametrize(
    "detection",
    [
        "{clusterCIDR: 10.180.0.0/16}", "{detectLocalMode: BridgeInterface, detectLocal: {bridgeInterface: br0}}",
        "{detectLocalMode: InterfaceNamePrefix, detectLocal: {interfaceNamePrefix: cali}}",
    ],
)  # fmt: skip
def test_pods_come_in_where_kube_proxy_looks_for_them(detection: str) -> None:  # I-10
    own = "traffic: [{name: t, from: pods, workload: web, service: web, perSecond: 20}]\n"
    log = simulate(f"{own}proxy: {detection}\n")
    kept = [c for c in log.connections if c.seen_source_ip == c.source_ip]
    assert kept and all(c.endpoint.startswith(c.source_ip) for c in log.connections if c not in kept)  # to oneself


ELSEWHERE = """
workloads: [{name: client, replicas: 1}]
objects:
  - {apiVersion: v1, kind: Service, metadata: {name: db}, spec: {clusterIP: 172.30.0.11, ports: [{port: 5432}]}}
  - apiVersion: discovery.k8s.io/v1
    kind: EndpointSlice
    metadata: {name: db-1, labels: {kubernetes.io/service-name: db}}
    addressType: IPv4
    endpoints: [{addresses: [198.51.100.7]}, {addresses: [192.168.0.1]}]
    ports: [{name: "", port: 5432, protocol: TCP}]
traffic:
  - {name: pods, from: pods, workload: client, service: db, perSecond: 20}
  - {name: nodes, from: nodes, service: db, perSecond: 20}
  - {name: long, from: nodes, service: db, perSecond: 2, long: {lasts: 5s, packetEvery: 1s}}
"""
_BARE = HEAD[: HEAD.index("workloads:")]


@pytest.mark.parametrize("mode", ["iptables", "nftables", "ipvs"])
def test_endpoints_that_are_no_pods_are_taken_to_answer(mode: str) -> None:
    """A machine outside and a process of a node, listed by a slice that people wrote: traces take them to listen, too."""
    log = simulate(ELSEWHERE, "duration=10s", f"proxy.mode={mode}", head=_BARE)
    assert {c.disposition for c in log.connections} == {Fate.DELIVERED}
    assert {(c.endpoint, c.answered_by) for c in log.connections} == {
        ("198.51.100.7:5432", ""),
        ("192.168.0.1:5432", ""),
    }
    note = f"{len(log.connections)} connections reached 192.168.0.1:5432, 198.51.100.7:5432: no pod of the scenario"
    assert any(line.startswith(note) for line in note_lines(log))
    assert replace(run_every_packet(mode), syncs=[]) == replace(log, syncs=[])


def run_every_packet(mode: str) -> RunLog:
    settings = ("duration=10s", f"proxy.mode={mode}")
    scenario = parse_scenario(_BARE + DELAYS + ELSEWHERE, "test.yaml", settings=settings)
    return run(replace(scenario, walk_all=True))


def test_they_leave_the_rules_and_answer_those_who_still_reach_them() -> None:
    gone = "events: [{at: 5s, deleteEndpointSlice: {endpointSlice: db-1}}]\n"
    log = simulate(gone + ELSEWHERE, "duration=10s", "icmpRateLimit=false", head=_BARE)
    new = [c for c in log.connections if c.traffic != "long" and c.at_ns > 6 * SECOND_NS]
    assert {(c.disposition, c.cause) for c in new} == {(Fate.REJECTED, Reason.NO_ENDPOINTS)}
    begun = [c for c in log.connections if c.traffic == "long" and c.at_ns < 5 * SECOND_NS]
    assert {c.disposition for c in begun} == {Fate.DELIVERED}  # entries keep them, and the machines are still there
    assert note_lines(simulate(INSIDE, "duration=5s")) == []
