"""Draws small scenarios in which things break one after the other: rules, syncs, processes, machines, and the objects themselves."""

from collections.abc import Callable, Mapping
from typing import Any

from kpsim.verify.drawing.choices import Choices, chance, pick, several

Json = dict[str, Any]

SPAN_MS = 300_000  #: faults begin within this time
LONGEST_MS = 90_000  #: how long one lasts at most; what follows from a machine that is off takes longer
MOST_EXITS = 5  #: of kube-proxies in one scenario, so that the last one waits 80 s for its kubelet
#: after the last fault may still come: a kube-proxy that exits and waits again and again, a node that counts as lost, pods that start anew
AFTERMATH_MS = 240_000

_FAMILIES = (("IPv4",), ("IPv4",), ("IPv6",), ("IPv4", "IPv6"))
_ADDRESSES = {"IPv4": "172.30.0.{}", "IPv6": "fd00:30::{}"}
_OUTSIDE = {"IPv4": "198.51.100.{}", "IPv6": "2001:db8:51::{}"}
_RANGES = {"IPv4": "203.0.113.0/24", "IPv6": "2001:db8:113::/64"}
_FOREIGN = (
    "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -p tcp --dport 25 -j DROP\nCOMMIT\n",
    "*nat\n:PREROUTING ACCEPT [0:0]\n:MINE - [0:0]\n-A PREROUTING -j MINE\nCOMMIT\n",
    "table inet fw { chain f { type filter hook forward priority 10; tcp dport 25 drop; } }",
)
_IPTABLES = ("raw", "mangle", "nat", "filter", "security")


def draw_scenario(choices: Choices, *, duration_ms: int, most: int = 7) -> Json:
    """A scenario of one or two nodes without traffic, and up to ``most`` events. It ends ``duration_ms`` after its start."""
    families = pick(choices, _FAMILIES)
    nodes = 1 + choices.below(2)
    world = _World([f"node-{n}" for n in range(1, nodes + 1)], families)
    services = [_service(choices, families, number) for number in range(1, 3 + choices.below(2))]
    times_ms = sorted(choices.below(SPAN_MS) for _ in range(1 + choices.below(most)))
    events = [(at_ms, _event(choices, world)) for at_ms in times_ms]
    return {
        "apiVersion": "kpsim.dev/v1alpha1", "kind": "Scenario", "metadata": {"name": "faults"}, "duration": f"{duration_ms}ms",
        "nodes": {"count": nodes, "ipFamilies": list(families), **({"zones": ["a", "b"]} if chance(choices, 30) else {})},
        "workloads": [_workload(choices, name) for name in ("web", "dns")],
        "objects": services,
        "delays": _delays(choices),
        "loadBalancer": {"interval": "10m", "nodeResync": "1h"},
        "events": [{"at": f"{at_ms}ms", **event} for at_ms, event in events],
    }  # fmt: skip


class _World:
    def __init__(self, nodes: list[str], families: tuple[str, ...]) -> None:
        self.nodes = nodes
        self.families = families
        self.made = 0
        self.exits = 0
        self.services = ["web", "dns"]  #: that may be patched or deleted


def _delays(choices: Choices) -> Json:
    if not chance(choices, 30):
        return {"sync": {"base": f"{pick(choices, (50, 1, 1200))}ms", "perRule": "0s"}}
    return {
        "watchDelivery": {"uniform": {"low": "1ms", "high": "900ms"}},
        "sync": {"base": {"exponential": {"mean": "300ms"}}},
    }


def _workload(choices: Choices, name: str) -> Json:
    protocol = "UDP" if name == "dns" else "TCP"
    found: Json = {
        "name": name,
        "replicas": 1 + choices.below(3),
        "ports": [{"containerPort": 8080, "protocol": protocol}],
    }
    if chance(choices, 30):
        found["termination"] = {"preStop": "5s", "servesDuringPreStop": True}
    return found


def _service(choices: Choices, families: tuple[str, ...], number: int) -> Json:
    """``web`` and ``dns``, and then another Service of web's pods."""
    app, protocol = ("dns", "UDP") if number == 2 else ("web", "TCP")
    ips = [_ADDRESSES[family].format(10 + number) for family in families]
    spec: Json = {
        "selector": {"app": app}, "clusterIP": ips[0], "clusterIPs": ips, "ipFamilies": list(families),
        "ports": [{"name": "p", "port": 80, "targetPort": 8080, "protocol": protocol}],
    }  # fmt: skip
    if len(families) > 1:
        spec["ipFamilyPolicy"] = "RequireDualStack"
    status: Json = {}
    if chance(choices, 60):
        spec["type"] = pick(choices, ("NodePort", "LoadBalancer"))
        spec["ports"][0]["nodePort"] = 30_000 + number
        if chance(choices, 40):
            spec["externalTrafficPolicy"] = "Local"
        if spec["type"] == "LoadBalancer":
            status = {"loadBalancer": {"ingress": [{"ip": _OUTSIDE[family].format(number)} for family in families]}}
            if chance(choices, 30):
                spec["loadBalancerSourceRanges"] = [_RANGES[family] for family in families]
    if chance(choices, 30):
        spec["sessionAffinity"] = "ClientIP"
    if chance(choices, 20):
        spec["externalIPs"] = [_OUTSIDE[family].format(100 + number) for family in families]
    if chance(choices, 15):
        spec["internalTrafficPolicy"] = "Local"
    made = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": app if number < 3 else f"more-{number}"},
        "spec": spec,
    }
    return {**made, "status": status} if status else made


def _event(choices: Choices, world: _World) -> Json:
    return pick(choices, (*FAULTS, *FAULTS, *CHANGES))(choices, world)


def _some(choices: Choices, world: _World) -> Json:
    """All nodes, or one."""
    return {} if chance(choices, 50) else {"nodes": [pick(choices, world.nodes)]}


def _lasting(choices: Choices) -> str:
    return f"{1 + choices.below(LONGEST_MS)}ms"


def _flush(choices: Choices, world: _World) -> Json:
    tool = pick(choices, ("iptables", "nft", "iptables", "nft", "ipvsadm", "ipset"))
    event: Json = {**_some(choices, world), "tool": tool}
    if tool == "iptables" and chance(choices, 50):
        event["tables"] = several(choices, _IPTABLES, 3) or ["nat"]
    if tool == "nft" and chance(choices, 60):
        event["tables"] = several(choices, ("kube-proxy", "nat", "filter", "mangle"), 2) or ["kube-proxy"]
    if "tables" in event or tool == "iptables":
        event["keepChains"] = chance(choices, 40)
    return {"flushRules": event}


def _hold(choices: Choices, world: _World) -> Json:
    return {"holdLock": {**_some(choices, world), "for": _lasting(choices)}}


def _fail(choices: Choices, world: _World) -> Json:
    how = {"count": 1 + choices.below(3)} if chance(choices, 50) else {"for": _lasting(choices)}
    part = {"part": "staleChains"} if chance(choices, 30) else {}
    if part:  # nothing asks for a sync when these fail, so a count of them may last longer than the run
        how = {"for": _lasting(choices)}
    return {"failSyncs": {**_some(choices, world), **how, **part}}


def _restart(choices: Choices, world: _World) -> Json:
    return {"restartProxy": {**_some(choices, world), "down": f"{choices.below(LONGEST_MS)}ms"}}


def _crash(choices: Choices, world: _World) -> Json:
    count = 1 + choices.below(4)
    world.exits += count
    if world.exits > MOST_EXITS:
        return _restart(choices, world)
    lives = {"count": count, "runs": f"{choices.below(3_000)}ms"}
    return {"crashProxy": {**_some(choices, world), **lives}}


def _write_config(choices: Choices, world: _World) -> Json:
    world.exits += 1
    return {"writeProxyConfig": _some(choices, world)} if world.exits <= MOST_EXITS else _restart(choices, world)


def _load(choices: Choices, world: _World) -> Json:
    text = pick(choices, _FOREIGN)
    if world.families == ("IPv6",) and text.startswith("*"):
        text = _FOREIGN[-1]
    return {"loadRules": {**_some(choices, world), "rules": text}}


def _reboot(choices: Choices, world: _World) -> Json:
    return {"reboot": {"node": pick(choices, world.nodes), "takes": _lasting(choices)}}


def _crowd(choices: Choices, world: _World) -> Json:
    if chance(choices, 50):
        return {"setConntrackMax": {**_some(choices, world), "max": 1 + choices.below(9), "for": _lasting(choices)}}
    return {"fillConntrack": {**_some(choices, world), "entries": 1 + choices.below(9), "for": _lasting(choices)}}


def _network(choices: Choices, world: _World) -> Json:
    if chance(choices, 50):
        nodes = [pick(choices, world.nodes)]
        return {"losePackets": {"nodes": nodes, "share": 0.5, "for": _lasting(choices)}}
    return {"clockSkew": {**_some(choices, world), "ahead": _lasting(choices), "for": _lasting(choices)}}


def _api_server(choices: Choices, world: _World) -> Json:
    lasts = {"for": _lasting(choices)}
    return pick(
        choices,
        (
            {"apiServerDown": lasts}, {"apiServerBusy": lasts}, {"apiServerSlow": {"by": f"{1 + choices.below(5_000)}ms", **lasts}},
            {"cutOff": {"nodes": [pick(choices, world.nodes)], **lasts}},
            {"closeWatches": {**_some(choices, world), "expired": chance(choices, 50)}},
        ),
    )  # fmt: skip


def _scale(choices: Choices, world: _World) -> Json:
    return {"scale": {"workload": pick(choices, ("web", "dns")), "replicas": choices.below(5)}}


def _pods(choices: Choices, world: _World) -> Json:
    workload = pick(choices, ("web", "dns"))
    kind = pick(choices, ("rollout", "deletePods", "crash"))
    return {kind: {"workload": workload}}


def _patch(choices: Choices, world: _World) -> Json:
    if not world.services:
        return _create(choices, world)
    spec = pick(
        choices,
        (
            {"sessionAffinity": "ClientIP"}, {"sessionAffinity": "None"}, {"internalTrafficPolicy": "Local"}, {"internalTrafficPolicy": "Cluster"},
            {"ports": [{"name": "q", "port": 81, "targetPort": 8080}]}, {"selector": {"app": "dns"}}, {"selector": {"app": "web"}},
        ),
    )  # fmt: skip
    return {"patchService": {"service": pick(choices, world.services), "patch": {"spec": spec}}}


def _create(choices: Choices, world: _World) -> Json:
    world.made += 1
    made = _service(choices, world.families, 10 + world.made)
    return {"createService": made}


def _delete(choices: Choices, world: _World) -> Json:
    if not world.services:
        return _create(choices, world)
    gone = pick(choices, world.services)
    world.services.remove(gone)
    return {"deleteService": {"service": gone}}


def _label(choices: Choices, world: _World) -> Json:
    zone = pick(choices, ("a", "b", None))
    return {"labelNode": {"node": pick(choices, world.nodes), "labels": {"topology.kubernetes.io/zone": zone}}}


Draw = Callable[[Choices, _World], Json]
FAULTS: tuple[Draw, ...] = (
    _flush,
    _flush,
    _hold,
    _fail,
    _restart,
    _crash,
    _write_config,
    _load,
    _reboot,
    _crowd,
    _network,
    _api_server,
)
CHANGES: tuple[Draw, ...] = (_scale, _pods, _patch, _create, _delete, _label)


def shorter(scenario: Mapping[str, Any], without: int) -> Json:
    """The scenario without one of its events."""
    events = list(scenario["events"])
    del events[without]
    return {**scenario, "events": events}
