"""Every field of every kind of manifest decides something, earns a note, is refused, or stands in a table with the reason.

Fields are taken from the schema, so a new one fails here until it is shown to matter. A field matters if one of the tried
values, at one of the places where the sample cluster can have it, changes a node's rules, kernel settings, the answers to
packets, or what loading says.
"""

import copy
import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal, get_args, get_origin

import pytest

import kpsim
from kpsim.errors import InputError
from kpsim.manifests.schema import SCHEMAS

Json = dict[str, Any]
Path = tuple[str, ...]  #: field names; ``[]`` stands for an item of a list, ``{}`` for an entry of labels


# ------------------------------------------------------------------------------------------------------ the sample cluster


def node(name: str, number: int, zone: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}},
        "spec": {"podCIDR": f"10.180.{number}.0/24", "podCIDRs": [f"10.180.{number}.0/24"]},
        "status": {
            "addresses": [{"type": "InternalIP", "address": f"192.168.0.{number}"}],
            "allocatable": {"cpu": "4"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def service(name: str, number: int, **spec: Any) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "shop", "labels": {}, "annotations": {}},
        "spec": {
            "clusterIP": f"172.30.0.{number}",
            "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
            **spec,
        },
    }


def pod(name: str, address: str, on: str, ready: str = "True", **fields: Any) -> Json:
    ports = [{"name": "web", "containerPort": 8080}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": "derived"}},
        "spec": {
            "nodeName": on,
            "containers": [{"name": "c", "ports": ports}],
            "initContainers": [
                {
                    "name": "i",
                    "restartPolicy": "Always",
                    "ports": [{"name": "side", "containerPort": 9090, "protocol": "UDP"}],
                }
            ],
            **fields,
        },
        "status": {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": ready}],
        },
    }


def endpoint(address: str, on: str, *, ready: bool = True, terminating: bool = False, **fields: Any) -> Json:
    conditions = {"ready": ready, "serving": True, "terminating": terminating}
    return {"addresses": [address], "nodeName": on, "conditions": conditions, **fields}


def slice_of(name: str, *endpoints: Json, labels: Mapping[str, str] | None = None) -> Json:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-1",
            "namespace": "shop",
            "labels": {"kubernetes.io/service-name": name, **(labels or {})},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": list(endpoints),
    }


CLUSTER: tuple[Json, ...] = (
    {"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "clusterCIDR": "10.180.0.0/16"},
    *(node(name, number, zone) for number, (name, zone) in enumerate([("n1", "a"), ("n2", "b"), ("n3", "b"), ("n4", "b")], 1)),
    service(
        "balanced", 10, type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=30999, sessionAffinity="ClientIP",
        sessionAffinityConfig={"clientIP": {"timeoutSeconds": 600}}, externalIPs=["198.51.100.7"],
        loadBalancerSourceRanges=["203.0.113.0/24"], allocateLoadBalancerNodePorts=True,
        ports=[{"name": "http", "port": 80, "nodePort": 30080}, {"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053}],
    ) | {"status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.10"}]}}},
    slice_of("balanced", endpoint("10.180.1.5", "n1"), endpoint("10.180.2.5", "n2")),
    service("zoned", 11, internalTrafficPolicy="Cluster", trafficDistribution="PreferSameNode", selector={"app": "zoned"}),
    slice_of(
        "zoned",
        *(
            endpoint(f"10.180.{n}.6", f"n{n}", zone=zone, hints={"forZones": [{"name": zone}], "forNodes": [{"name": f"n{n}"}]})
            for n, zone in ((1, "a"), (2, "b"), (3, "b"))
        ),
        labels={"endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"},
    ),
    *(
        pod(f"z{n}", f"10.180.{n}.6", f"n{n}") | {"metadata": {"name": f"z{n}", "namespace": "shop", "labels": {"app": "zoned"}}}
        for n in (1, 2, 3)
    ),
    service("draining", 14),
    slice_of("draining", endpoint("10.180.1.9", "n1", ready=False, terminating=True)),
    service(
        "derived", 12, selector={"app": "derived"}, publishNotReadyAddresses=False,
        ports=[
            {"name": "http", "port": 80, "targetPort": "web"},
            {"name": "side", "port": 90, "targetPort": "side", "protocol": "UDP"},
        ],
    ),
    *(pod(f"p{n}", f"10.180.{n}.7", f"n{n}", subdomain="derived", hostname=f"h{n}") for n in (1, 2, 3)),
    pod("p4", "10.180.1.17", "n1", ready="False"),
    pod("lone", "10.180.4.200", "n4") | {"metadata": {"name": "lone", "namespace": "shop"}},
    service("allocated", 0, clusterIP="", type="LoadBalancer")
    | {"status": {"loadBalancer": {"ingress": [{"hostname": "lb.example.org"}]}}},
    service("alias", 0, clusterIP="", type="ExternalName", externalName="example.org", ports=[]),
    service("external", 13, internalTrafficPolicy="Local"),
    {
        "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "external", "namespace": "shop"},
        "subsets": [{
            "addresses": [{"ip": "10.180.1.8", "nodeName": "n1"}], "notReadyAddresses": [{"ip": "10.180.2.8"}],
            "ports": [{"name": "http", "port": 8080}],
        }],
    },
    {"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["172.30.0.0/16"]}},
)  # fmt: skip


def observe(objects: list[Json]) -> str:
    """Everything that kpsim says about a cluster, as one text."""
    try:
        cluster = kpsim.load(text=json.dumps(objects))
        said = [*cluster.notes]
        for name in cluster.node_names:
            said += [cluster.rules(name), str(cluster.kernel_settings(name))]
        for dialled in ("172.30.0.10:80", "198.51.100.10:80", "192.168.0.1:30080", "172.30.0.12:80"):
            for sender in ("pod", "external"):
                said += [str(cluster.probe(name, dialled, sender=sender).to_json()) for name in cluster.node_names[::3]]
        return "\n".join(said)
    except InputError as error:
        return f"refused: {error}"


@cache
def as_it_is() -> str:
    said = observe([*CLUSTER])
    assert not said.startswith("refused"), said
    return said


# -------------------------------------------------------------------------------------------------------------- fields


def bare(hint: Any) -> Any:
    """A hint without Required, Annotated and None."""
    while True:
        if get_origin(hint) in (list, dict, Literal):
            return hint
        inner = [argument for argument in get_args(hint) if argument is not type(None)]
        if not inner:
            return hint
        hint = inner[0]


def fields(hint: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every field below a type, with its bare type. Fields that hold anything have the type Any."""
    hint = bare(hint)
    if get_origin(hint) is list:
        yield from fields(get_args(hint)[0], (*path, "[]"))
        return
    annotations: Mapping[str, Any] = getattr(hint, "__annotations__", {})
    for name, inner in annotations.items():
        yield (*path, name), bare(inner)
        yield from fields(inner, (*path, name))


FIELDS = [(kind, path, hint) for kind, schema in SCHEMAS.items() for path, hint in fields(schema)]

_GENERIC: Mapping[Any, tuple[Any, ...]] = {
    str: ("x", "192.168.0.77", "10.180.77.0/24", "n2", "b", "UDP", "True"),
    int: (1, 8081, 30777, 700),
    bool: (True, False),
    Any: ("x", 1, [], {}),
}


def candidates(kind: str, path: Path, hint: Any) -> Iterator[Any]:
    yield from VALUES.get((kind, ".".join(path)), ())
    if get_origin(hint) is Literal:
        yield from get_args(hint)
    elif get_origin(hint) is list:
        yield []
        inner = bare(get_args(hint)[0])
        yield from (
            [value] for value in (get_args(inner) if get_origin(inner) is Literal else _GENERIC.get(inner, ({},)))
        )
    elif get_origin(hint) is dict:
        yield {"x": "y"}
    else:
        yield from _GENERIC.get(hint, ({},))
    yield None  # absent


def places(value: Any, path: Path) -> Iterator[tuple[Any, str]]:
    """The containers in a value that have, or could have, the field at the end of a path."""
    step, rest = path[0], path[1:]
    if step == "[]":
        for item in value if isinstance(value, list) else ():
            yield from places(item, rest)
    elif not isinstance(value, dict):
        return
    elif not rest:
        yield value, step
    else:
        if value.get(step) is None and rest[0] != "[]":
            value[step] = {}
        yield from places(value.get(step), rest)


def edits(kind: str, path: Path, hint: Any) -> Iterator[list[Json]]:
    """The sample cluster with one value of the field changed, for every place and value to try."""
    for value in candidates(kind, path, hint):
        for number, obj in enumerate(CLUSTER):
            if obj["kind"] != kind:
                continue
            for index in range(len(list(places(copy.deepcopy(obj), path)))):
                changed = copy.deepcopy(obj)
                container, name = list(places(changed, path))[index]
                if value is None and name not in container:
                    continue
                if value is None:
                    del container[name]
                else:
                    container[name] = value
                yield [*CLUSTER[:number], changed, *CLUSTER[number + 1 :]]


#: values to try first, where those tried for the type decide nothing
VALUES: Mapping[tuple[str, str], tuple[Any, ...]] = {
    ("Service", "metadata.labels"): ({"service.kubernetes.io/service-proxy-name": "other"},),
    ("Service", "metadata.annotations"): ({"service.kubernetes.io/topology-mode": "Auto"},),
    ("EndpointSlice", "endpoints.[].conditions"): ({"ready": False},),
    ("EndpointSlice", "endpoints.[].deprecatedTopology"): (),
    ("Endpoints", "metadata.labels"): ({"endpointslice.kubernetes.io/skip-mirror": "true"},),
    ("Node", "metadata.labels"): ({"topology.kubernetes.io/zone": "a"},),
    ("Pod", "spec.containers"): ([],),
    ("Pod", "spec.initContainers"): ([],),
}

_BOOKKEEPING = "an API server's bookkeeping: neither kube-proxy nor the slice controller reads it here"
_RUNS = "says how the kubelet runs the pod; what comes of it stands in the pod's status"
_MACHINE = "describes the machine to schedulers and people; kube-proxy reads addresses, pod networks and labels"
_DNS = "for DNS only"

#: fields that cannot change where a packet goes, with the reason. ``*`` stands for every kind
NEVER: Mapping[str, tuple[str, ...]] = {
    _BOOKKEEPING: (
        *(f"*.metadata.{name}" for name in (
            "generateName", "selfLink", "generation", "deletionGracePeriodSeconds", "finalizers", "managedFields", "clusterName",
            "ownerReferences", "creationTimestamp",
        )),
        "Service.status.conditions", "Service.status.loadBalancer.ingress.[].ports", "ServiceCIDR.status",
    ),
    "read of stored Services, Pods and Nodes only, for what older servers may have stored": (
        *(f"{kind}.metadata.{name}" for kind in ("EndpointSlice", "Endpoints", "Node", "Pod", "ServiceCIDR")
          for name in ("uid", "resourceVersion")),
    ),
    "an object that is being deleted counts until it is gone; only a Pod's endpoints terminate": (
        *(f"{kind}.metadata.deletionTimestamp" for kind in ("Service", "EndpointSlice", "Endpoints", "Node", "ServiceCIDR")),
    ),
    "the annotation that is read tells when endpoints changed: a metric, which recordings and scenarios show": (
        "EndpointSlice.metadata.annotations", "Endpoints.metadata.annotations",
    ),
    "nobody who decides about packets reads annotations or labels of this kind": (
        "Node.metadata.annotations", "Pod.metadata.annotations", "ServiceCIDR.metadata.labels", "ServiceCIDR.metadata.annotations",
    ),
    "kube-proxy in iptables mode does not read the application's protocol": (
        "Service.spec.ports.[].appProtocol", "EndpointSlice.ports.[].appProtocol", "Endpoints.subsets.[].ports.[].appProtocol",
    ),
    _DNS: (
        "EndpointSlice.endpoints.[].hostname", "Endpoints.subsets.[].addresses.[].hostname", "Pod.spec.hostname",
        "Endpoints.subsets.[].notReadyAddresses.[].hostname", "Pod.spec.subdomain", "Service.spec.externalName",
        "Pod.spec.setHostnameAsFQDN", "Pod.spec.hostnameOverride",
    ),
    "gone from the API: a server of 1.36 stores it nowhere": ("EndpointSlice.endpoints.[].deprecatedTopology",),
    "an endpoint that is not ready and does not terminate gets no traffic, wherever it is": (
        "Endpoints.subsets.[].notReadyAddresses.[].nodeName",
    ),
    "names the pod behind an address for people": (
        "Endpoints.subsets.[].addresses.[].targetRef", "Endpoints.subsets.[].notReadyAddresses.[].targetRef",
    ),
    "only beside hostPort, of which loading says that it is the network plugin's": (
        "Pod.spec.containers.[].ports.[].hostIP", "Pod.spec.initContainers.[].ports.[].hostIP",
    ),
    _RUNS: (
        "Pod.spec.containers.[].name", "Pod.spec.initContainers.[].name", "Pod.spec.containers.[].restartPolicy",
        "Pod.status.conditions.[].reason",
    ),
    _MACHINE: (),
}  # fmt: skip
#: objects all of whose fields that hold anything (``Any`` in the schema) are without effect, except those named
WITHOUT_EFFECT: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "Pod.spec": (_RUNS, ()),
    "Pod.status": (_RUNS, ("Pod.status.conditions.[].lastTransitionTime",)),
    "Node.spec": (_MACHINE, ("Node.spec.taints",)),
    "Node.status": (_MACHINE, ("Node.status.allocatable", "Node.status.conditions")),
}


def reason(kind: str, path: Path, hint: Any) -> str | None:
    """Why the field cannot matter, or None."""
    dotted = ".".join(path)
    for why, names in NEVER.items():
        if f"{kind}.{dotted}" in names or f"*.{dotted}" in names:
            return why
    if hint is Any:
        for prefix, (why, but) in WITHOUT_EFFECT.items():
            if f"{kind}.{dotted}".startswith(f"{prefix}.") and f"{kind}.{dotted}" not in but:
                return why
    return None


IDS = [f"{kind}.{'.'.join(path)}" for kind, path, _ in FIELDS]
MATTER = [(kind, path, hint) for kind, path, hint in FIELDS if reason(kind, path, hint) is None]


@pytest.mark.parametrize(("kind", "path", "hint"), MATTER, ids=[f"{kind}.{'.'.join(path)}" for kind, path, _ in MATTER])
def test_a_field_matters(kind: str, path: Path, hint: Any) -> None:
    assert any(observe(changed) != as_it_is() for changed in edits(kind, path, hint)), "nothing came of any value"


def test_the_tables_name_fields_that_exist() -> None:
    known = {*IDS, *(f"*.{'.'.join(path)}" for _, path, _ in FIELDS)}
    named = {name for names in NEVER.values() for name in names} | {f"{kind}.{path}" for kind, path in VALUES}
    named |= {name for _, but in WITHOUT_EFFECT.values() for name in but}
    assert named - known == set()
