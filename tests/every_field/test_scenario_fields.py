"""Every field of a scenario file changes a run, earns a note, is refused, or stands in a table with the reason.

Fields are taken from the pydantic models, so a new one fails here until it is shown to matter. The sample scenario is small
and has every part that a file can have.
"""

import copy
from typing import Any

import pytest
from scenario_fields import fields, is_dial, is_fault, is_of_clients, observe

from kpsim.scenario.quantities import Delay
from kpsim.scenario.schema import ScenarioSpec

Json = dict[str, Any]
Path = tuple[str | int, ...]  #: with positions in the sample


def service(name: str, address: str, **spec: Any) -> Json:
    ports = [
        {"name": "http", "port": 80, "targetPort": "web"},
        {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
    ]
    return {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"clusterIP": address, "selector": {"app": "web"}, "ports": ports, **spec},
    }  # fmt: skip


def hand_written(name: str, address: str) -> Json:
    return {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": "bare"}},
        "ports": [{"name": "", "port": 80}], "endpoints": [{"addresses": [address]}],
    }  # fmt: skip


BARE = service("bare", "172.30.0.13", ports=[{"port": 80}])
del BARE["spec"]["selector"]

SAMPLE: Json = {
    "apiVersion": "kpsim.dev/v1alpha1",
    "kind": "Scenario",
    "metadata": {"name": "sample"},
    "description": "everything",
    "seed": 1,
    "duration": "12s",
    "nodes": {
        "ipFamilies": ["IPv4"], "hairpin": True, "sysctls": {"net.ipv4.conf.all.rp_filter": 1},
        "list": [
            {"name": f"n{n}", "zone": zone, "ips": [f"192.168.0.{n}"], "podCIDRs": [f"10.180.{n}.0/24"], "cpu": 4, "sysctls": {},
             "interfaces": [
                 {"name": "vlan17", "addresses": [f"10.46.0.{n}/16"], "routes": ["10.47.0.0/16"]},
                 {"name": "eth0", "addresses": [f"192.168.0.{n}/24", f"fd00:192:168::{n}/64"]},
             ]}
            for n, zone in enumerate(("a", "a", "b"), 1)
        ],
    },
    "workloads": [
        {
            "name": "web", "namespace": "shop", "labels": {"app": "web"}, "replicas": 3,
            "placement": {"policy": "spread", "zones": ["a", "b"], "nodes": []},
            "ports": [{"containerPort": 8080, "name": "web", "protocol": "TCP"}],
            "startup": {"delay": {"uniform": {"low": "200ms", "high": "400ms"}}},
            "readiness": {"probeDelay": {"normal": {"mean": "50ms", "stddev": "10ms", "low": "10ms", "high": "200ms"}}},
            "termination": {
                "preStop": "300ms", "grace": "2s", "servesDuringPreStop": True,
                "afterSigterm": {"exponential": {"mean": "100ms", "max": "500ms"}}, "unreadyAfterSigterm": "50ms",
            },
        },
        {"name": "client", "replicas": 1, "pods": [{"name": "first", "node": "n2", "ips": ["10.180.2.99"], "ready": True}], "startup": {"delay": {"choice": {"values": ["10ms", "600ms"], "weights": [1, 1]}}}},
    ],
    "objects": [
        service("web", "172.30.0.10", type="LoadBalancer", externalTrafficPolicy="Local", trafficDistribution="PreferSameZone")
        | {"status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.10"}]}}},
        service("auto", "172.30.0.12")
        | {"metadata": {"name": "auto", "namespace": "shop", "annotations": {"service.kubernetes.io/topology-mode": "Auto"}}},
        BARE, hand_written("bare-1", "198.51.100.30"),
    ],
    "proxy": {"iptables": {"minSyncPeriod": "300ms"}},
    "icmpRateLimit": True,
    "delays": {"onNodes": [{"nodes": ["n3"], "watchDelivery": "400ms", "sync": {"base": "200ms", "perRule": "30us"}}],
               "sync": {"base": "50ms", "perRule": "20us"}, "nodeMonitorGrace": "1s"},
    "loadBalancer": {"interval": "500ms", "unhealthyThreshold": 2, "healthyThreshold": 2},
    "events": [
        {"at": "1s", "createService": service("other", "172.30.0.11", selector={"app": "none"})},
        {"at": "1500ms", "rollout": {"workload": "web", "maxSurge": 1, "maxUnavailable": 1}},
        {"at": "2s", "readiness": {"workload": "web", "count": 1, "nodes": ["n1"], "ready": False, "for": "700ms"}},
        {"at": "2200ms", "createEndpointSlice": hand_written("bare-2", "198.51.100.31")},
        {"at": "2400ms", "patchEndpointSlice": {"endpointSlice": "shop/bare-1", "patch": {"endpoints": []}}},
        {"at": "2600ms", "deleteEndpointSlice": {"endpointSlice": "shop/bare-2"}},
        {"at": "3s", "patchService": {"service": "shop/web", "patch": {"spec": {"internalTrafficPolicy": "Local"}}}},
        {"at": "4s", "scale": {"workload": "web", "replicas": 5}},
        {"at": "4500ms", "failSyncs": {"nodes": ["n1"], "count": 2}},
        {"at": "5s", "crash": {"workload": "web", "count": 1, "nodes": [], "restarts": True}},
        {"at": "6s", "deletePods": {"workload": "web", "count": 1, "nodes": [], "force": False}},
        {"at": "6500ms", "restartProxy": {"nodes": ["n2"], "down": "300ms"}},
        {"at": "7s", "deleteService": {"service": "shop/other"}},
        {"at": "7200ms", "cordon": {"node": "n1"}},
        {"at": "7300ms", "taintNode": {"node": "n2", "key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}},
        {"at": "7800ms", "untaintNode": {"node": "n2", "key": "ToBeDeletedByClusterAutoscaler"}},
        {"at": "7900ms", "uncordon": {"node": "n1"}},
        {"at": "8s", "nodeDown": {"nodes": ["n3"]}},
        {"at": "10500ms", "nodeUp": {"nodes": ["n3"]}},
        {"at": "9s", "labelNode": {"node": "n2", "labels": {"topology.kubernetes.io/zone": "b"}}},
        {"at": "9200ms", "deleteNode": {"node": "n1"}},
        {"at": "9500ms", "addNode": {"node": "n1"}},
        {"at": "11s", "drain": {"node": "n2"}},
    ],
    "traffic": [
        {
            "name": "outside", "from": "outside", "service": "shop/web", "port": "http", "via": "loadBalancer",
            "perSecond": 5, "arrivals": "constant", "start": "0s", "stop": "11s", "clients": 4, "nat": False, "sourcePorts": 0,
            "clientNetwork": "10.47.0.0/24", "interface": "vlan17",
        },
        {"name": "pods", "from": "pods", "workload": "client", "service": "shop/web", "port": "http", "perSecond": 3,
         "long": {"lasts": "2s", "packetEvery": "500ms"}},
        {"name": "selves", "from": "pods", "workload": "web", "service": "shop/auto", "port": "http", "perSecond": 2},
        {"name": "nodes", "from": "nodes", "nodes": ["n1"], "service": "shop/web", "port": "http", "perSecond": 2},
        {"name": "port", "service": "shop/web", "port": "http", "via": "nodePort", "address": "10.46.0.1", "perSecond": 2},
        {"name": "refused", "from": "outside", "service": "shop/other", "via": "clusterIP", "port": "dns", "perSecond": 10,
         "start": "500ms", "stop": "8s", "clients": 1},
    ],
    "expect": ["sent > 0"],
}  # fmt: skip


def matters(path: tuple[str, ...], value: Any, **without: Any) -> bool:
    """Whether the value changes what is said of the sample, and the run is accepted. ``without`` replaces whole parts."""
    said, sample = observe({**changed(path, value), **without}), observe({**SAMPLE, **without})
    assert not sample.startswith("refused"), sample
    return said != sample and not said.startswith("refused")


#: by field: values to try, of which one must change a run that is accepted
VALUES: dict[str, tuple[Any, ...]] = {
    "apiVersion": ("kpsim.dev/v2",), "kind": ("Other",), "metadata": ({"name": "renamed"},), "metadata.name": ("renamed",),
    "description": ("other",), "seed": (2,), "duration": ("13s",),
    "nodes": ({"count": 3},), "nodes.count": (2,), "nodes.zones": (["a"],), "nodes.ipFamilies": (["IPv4", "IPv6"],),
    "nodes.list": ([{"name": name} for name in ("n1", "n2", "n3")],), "nodes.list.name": ("n9",), "nodes.list.zone": ("b",),
    "nodes.list.ips": (["10.46.0.1"],), "nodes.list.interfaces.name": ("vlan18",),
    "nodes.list.interfaces": ([{"name": name, "addresses": [a]} for name, a in (("eth0", "192.168.0.1/24"), ("vlan17", "10.46.0.1/16"))],),
    "nodes.list.interfaces.addresses": (["10.46.0.1/16", "10.180.2.1/25"],), "nodes.list.interfaces.routes": ([],), "nodes.list.podCIDRs": (["10.180.77.0/24"],), "nodes.list.cpu": (8, 64),
    "nodes.list.sysctls": ({"net.bridge.bridge-nf-call-iptables": 0},),
    "nodes.list.hairpin": (False,), "nodes.hairpin": (False,), "nodes.podIPAllocation": ("lowestFree",),
    "nodes.sysctls": ({"net.bridge.bridge-nf-call-iptables": 0},),
    "workloads": ([],), "workloads.name": ("other",), "workloads.namespace": ("default",), "workloads.labels": ({"app": "x"},),
    "workloads.replicas": (2,), "workloads.placement": ({"policy": "packed"},), "workloads.placement.policy": ("packed",),
    "workloads.placement.zones": (["a"],), "workloads.placement.nodes": (["n1"],), "workloads.ports": ([],),
    "workloads.ports.containerPort": (8081,), "workloads.ports.name": ("x",), "workloads.ports.protocol": ("UDP",),
    "workloads.hostNetwork": (True,), "workloads.startup": ({"delay": "2s"},), "workloads.startup.delay": ("2s",),
    "workloads.startup.address": ("100ms",), "workloads.readiness": ({"probeDelay": "1s"},),
    "workloads.readiness.probeDelay": ("1s",), "workloads.termination": ({},), "workloads.termination.preStop": ("1s",),
    "workloads.termination.grace": ("310ms",), "workloads.termination.servesDuringPreStop": (False,),
    "workloads.termination.afterSigterm": ("1s",), "workloads.termination.unreadyAfterSigterm": ("1ms",),
    "workloads.pods": ([{"name": "other", "node": "n2"}],), "workloads.pods.name": ("other",), "workloads.pods.node": ("n3",),
    "workloads.pods.ips": (["10.180.2.98"],), "workloads.pods.ready": (False,),
    "manifests": (["nowhere.yaml"],), "objects": ([],), "proxy": ({"iptables": {"minSyncPeriod": "5s"}},),
    "icmpRateLimit": (False,), "delays": ({},), "delays.onNodes": ([],), "delays.onNodes.nodes": (["n1"],),
    "delays.sync": ({"base": "1s"},), "delays.onNodes.sync": ({"base": "1s"},), "delays.sync.perRule": ("100us",), "delays.sync.perHeldRule": ("100us",),
    "delays.onNodes.sync.perHeldRule": ("100us",),
    "delays.onNodes.sync.perRule": ("100us",), "controller": ({"workers": 1, "qps": 1, "burst": 1},),
    "controller.workers": (1,), "controller.qps": (1,), "controller.burst": (1,),
    "loadBalancer": ({"interval": "100ms"},), "loadBalancer.interval": ("100ms",), "loadBalancer.unhealthyThreshold": (9,),
    "loadBalancer.healthyThreshold": (5,),
    "events": ([{"at": "1s", "createService": service("other", "172.30.0.11")}],), "events.at": ("900ms",), "events.rollout": (None,), "events.rollout.workload": ("client",),
    "events.rollout.maxSurge": (3,), "events.rollout.maxUnavailable": (3,), "events.scale": (None,),
    "events.scale.workload": ("client",), "events.scale.replicas": (1,), "events.crash": (None,),
    "events.crash.workload": ("client",), "events.crash.count": (3,), "events.crash.nodes": (["n1"], ["n2"]),
    "events.crash.restarts": (False,), "events.deletePods": (None,), "events.deletePods.workload": ("client",),
    "events.deletePods.count": (3,), "events.deletePods.nodes": (["n1"], ["n2"]), "events.deletePods.force": (True,),
    "events.nodeDown": (None,), "events.nodeDown.nodes": (["n1"],), "events.nodeUp": (None,), "events.nodeUp.nodes": (["n2"],),
    "delays.unreachableToleration": ("500ms",),
    "events.readiness": (None,), "events.readiness.workload": ("client",), "events.readiness.count": (3,),
    "events.readiness.nodes": (["n2"],), "events.readiness.ready": (True,), "events.readiness.for": ("2s",),
    "events.cordon": (None,), "events.cordon.node": ("n3",), "events.uncordon": (None,), "events.uncordon.node": ("n3",),
    "events.taintNode": (None,), "events.taintNode.node": ("n1",), "events.taintNode.key": ("example.com/gpu",),
    "events.taintNode.effect": ("NoExecute",), "events.untaintNode": (None,), "events.untaintNode.node": ("n1",),
    "events.untaintNode.key": ("example.com/gpu",), "events.drain": (None,), "events.drain.node": ("n1",),
    "events.addNode": (None,), "events.addNode.node": ("n3",), "events.deleteNode": (None,), "events.deleteNode.node": ("n2",),
    "events.labelNode": (None,), "events.labelNode.node": ("n1",), "events.labelNode.labels": ({"team": "a"},),
    "events.createEndpointSlice": (hand_written("bare-2", "198.51.100.32"),), "events.patchEndpointSlice": (None,),
    "events.patchEndpointSlice.endpointSlice": ("shop/bare-2",), "events.deleteEndpointSlice": (None,),
    "events.patchEndpointSlice.patch": ({"endpoints": [{"addresses": ["198.51.100.33"]}]},),
    "events.deleteEndpointSlice.endpointSlice": ("shop/bare-1",),
    "events.patchService": (None,), "events.patchService.service": ("shop/other",),
    "events.patchService.patch": ({"spec": {"publishNotReadyAddresses": True}},), "events.createService": (service("other", "172.30.0.99"),),
    "events.deleteService": (None,), "events.deleteService.service": ("shop/web",), "events.restartProxy": (None,),
    "events.restartProxy.nodes": (["n1"],), "events.failSyncs": (None,), "events.failSyncs.nodes": (["n2"],),
    "events.failSyncs.count": (9,), "events.failSyncs.for": ("3s",),
    "traffic": ([],), "traffic.name": ("renamed",), "traffic.from": ("nodes",), "traffic.workload": ("web",),
    "traffic.nodes": (["n2"],), "traffic.service": ("shop/other",), "traffic.port": ("dns",), "traffic.via": ("nodePort",),
    "traffic.ipFamily": ("IPv6",), "traffic.perSecond": (30,), "traffic.arrivals": ("poisson",), "traffic.start": ("2s",),
    "traffic.stop": ("3s",), "traffic.clients": (9,), "traffic.clientNetwork": ("10.47.9.0/24",), "traffic.interface": ("eth0",),
    "traffic.address": ("10.46.0.3",), "traffic.nat": (True,), "traffic.sourcePorts": (3,),
    "traffic.long": (None,), "traffic.connectTimeout": ("2s",), "expect": (["sent > 1000000"],),
}  # fmt: skip
#: delays and durations that are not in the table: longer than anything in the sample
_LONGER = ("1500ms",)

NEVER = {"description": "words for people: reports print it, and nothing depends on it"}

PATHS = [
    path
    for path in fields(ScenarioSpec)
    if ".".join(path) not in NEVER and not (is_dial(path) or is_of_clients(path) or is_fault(path))
]


def place(content: Any, path: tuple[str, ...]) -> Path:
    """Where the sample has a field: in a list, the first item that has the next step; else the first item."""
    found: list[str | int] = []
    for number, name in enumerate(path):
        if isinstance(content, list):
            index = next((n for n, item in enumerate(content) if name in item and _leads(item, path[number:])), 0)
            found.append(index)
            content = content[index]
        found.append(name)
        content = content.get(name) if isinstance(content, dict) else None
    return tuple(found)


def _leads(item: Any, path: tuple[str, ...]) -> bool:
    for name in path:
        if isinstance(item, list):
            return True
        if not isinstance(item, dict) or name not in item:
            return name == path[-1]
        item = item[name]
    return True


def changed(path: tuple[str, ...], value: Any) -> Json:
    content = copy.deepcopy(SAMPLE)
    inner: Any = content
    *above, last = place(SAMPLE, path)
    for step in above:
        inner = inner.setdefault(step, {}) if isinstance(inner, dict) else inner[step]
    if value is None and path[0] == "events":  # an event is its one field: without it there is no event
        content["events"].pop(above[1])
    elif value is None:
        del inner[last]
    elif path == ("events", "failSyncs", "for"):
        inner.pop("count")
        inner[last] = value
    else:
        inner[last] = value
    return content


@pytest.mark.parametrize("path", PATHS, ids=[".".join(path) for path in PATHS])
def test_a_field_of_a_scenario_matters(path: tuple[str, ...]) -> None:
    """A run without traffic is the cheaper proof; what it does not show needs packets."""
    values = VALUES.get(".".join(path), _LONGER)
    if path[0] != "traffic" and any(matters(path, value, traffic=[]) for value in values):
        return
    if ".".join(path) in REFUSED:
        assert all(observe(changed(path, value)).startswith("refused") for value in values)
    else:
        assert any(matters(path, value) for value in values), [observe(changed(path, value))[:2000] for value in values]


#: fields of which no other value can stand in the sample, as other fields refer to it: the refusal says so
REFUSED = (
    "apiVersion", "kind", "nodes", "nodes.count", "nodes.zones", "nodes.list", "nodes.list.name",
    "nodes.list.interfaces.name", "workloads", "workloads.name",
    "manifests", "objects", "traffic.from", "traffic.service", "traffic.ipFamily",
)  # fmt: skip


# ---------------------------------------------------------------------------------------- what cannot stand in the sample

SMALL: Json = {
    "apiVersion": "kpsim.dev/v1alpha1", "kind": "Scenario", "metadata": {"name": "small"}, "duration": "3s",
    "nodes": {"count": 2}, "workloads": [{"name": "w", "replicas": 4}],
    "objects": [{
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "w"},
        "spec": {"clusterIP": "172.30.0.10", "selector": {"app": "w"}, "ports": [{"port": 80}], "trafficDistribution": "PreferClose"},
    }],
    "events": [{"at": "1s", "rollout": {"workload": "w"}}],
    "traffic": [{"name": "t", "from": "nodes", "service": "w", "perSecond": 20}],
}  # fmt: skip


DUAL: Json = {
    "nodes": {"count": 2, "ipFamilies": ["IPv4", "IPv6"]},
    "objects": [
        *SMALL["objects"],
        service("v", "172.30.0.11", ports=[{"port": 80}], selector={"app": "w"}, ipFamilyPolicy="RequireDualStack"),
    ],
    "traffic": [{**SMALL["traffic"][0], "service": "shop/v"}],
}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"nodes": {"count": 2}}, {"nodes": {"count": 3}}),
        ({"nodes": {"count": 2, "zones": ["a"]}}, {"nodes": {"count": 2, "zones": ["a", "b"]}}),
        ({"nodes": {"list": [{"name": "x"}, {"name": "y"}]}}, {"nodes": {"list": [{"name": "x"}, {"name": "z"}]}}),
        ({"objects": SMALL["objects"], "traffic": []}, {"objects": [], "traffic": []}),
        ({"workloads": SMALL["workloads"], "events": []}, {"workloads": [], "events": []}),
        ({"traffic": SMALL["traffic"]}, {"traffic": [{**SMALL["traffic"][0], "from": "outside"}]}),
        (
            {"objects": [*SMALL["objects"], service("v", "172.30.0.11", ports=[{"port": 80}])]},
            {
                "objects": [*SMALL["objects"], service("v", "172.30.0.11", ports=[{"port": 80}])],
                "traffic": [{**SMALL["traffic"][0], "service": "shop/v"}],
            },
        ),
        ({**DUAL}, {**DUAL, "traffic": [{**SMALL["traffic"][0], "service": "shop/v", "ipFamily": "IPv6"}]}),
    ],
)
def test_fields_that_others_refer_to(one: Json, other: Json) -> None:
    said = observe({**SMALL, **one}), observe({**SMALL, **other})
    assert said[0] != said[1]
    assert not any(each.startswith("refused") for each in said), said


#: two delays that differ in one field, by that field
DELAYS: dict[str, tuple[Json, Json]] = {
    "constant": ({"constant": "10ms"}, {"constant": "400ms"}),
    "uniform": ({"constant": "10ms"}, {"uniform": {"low": "10ms", "high": "400ms"}}),
    "uniform.low": ({"uniform": {"low": "10ms", "high": "400ms"}}, {"uniform": {"low": "390ms", "high": "400ms"}}),
    "uniform.high": ({"uniform": {"low": "10ms", "high": "400ms"}}, {"uniform": {"low": "10ms", "high": "900ms"}}),
    "exponential": ({"constant": "10ms"}, {"exponential": {"mean": "100ms"}}),
    "exponential.mean": ({"exponential": {"mean": "10ms"}}, {"exponential": {"mean": "100ms"}}),
    "exponential.max": ({"exponential": {"mean": "100ms"}}, {"exponential": {"mean": "100ms", "max": "20ms"}}),
    "normal": ({"constant": "10ms"}, {"normal": {"mean": "100ms", "stddev": "50ms"}}),
    "normal.mean": ({"normal": {"mean": "100ms", "stddev": "50ms"}}, {"normal": {"mean": "200ms", "stddev": "50ms"}}),
    "normal.stddev": ({"normal": {"mean": "100ms", "stddev": "50ms"}}, {"normal": {"mean": "100ms", "stddev": "5ms"}}),
    "normal.low": ({"normal": {"mean": "100ms", "stddev": "50ms"}}, {"normal": {"mean": "100ms", "stddev": "50ms", "low": "95ms"}}),
    "normal.high": ({"normal": {"mean": "100ms", "stddev": "50ms"}}, {"normal": {"mean": "100ms", "stddev": "50ms", "high": "100ms"}}),
    "choice": ({"constant": "10ms"}, {"choice": {"values": ["10ms", "400ms"]}}),
    "choice.values": ({"choice": {"values": ["10ms", "400ms"]}}, {"choice": {"values": ["10ms", "900ms"]}}),
    "choice.weights": ({"choice": {"values": ["10ms", "400ms"]}}, {"choice": {"values": ["10ms", "400ms"], "weights": [0, 1]}}),
}  # fmt: skip


def test_every_field_of_a_delay_has_two_delays_that_differ_in_it() -> None:
    assert {".".join(path) for path in fields(Delay)} == set(DELAYS)


@pytest.mark.parametrize("name", sorted(DELAYS))
def test_a_field_of_a_delay_matters(name: str) -> None:
    said = [observe({**SMALL, "delays": {"apiWrite": delay}}) for delay in DELAYS[name]]
    assert said[0] != said[1]
    assert not any(each.startswith("refused") for each in said), said
