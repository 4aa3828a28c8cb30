"""Small random scenarios with short connections of every kind, and what their runs leave behind, to be compared."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from kpsim.scenario import Scenario, parse_scenario
from kpsim.simulation.engine import Run

T = TypeVar("T")
Choose = Callable[[Sequence[T]], T]  #: one of several

#: rules of iptables by table, and those of nft: what others may have loaded beside kube-proxy
IPTABLES = (
    ("filter", "FORWARD -p tcp --dport 8080 -m statistic --mode random --probability 0.3 -j DROP"),
    ("filter", "FORWARD -m conntrack --ctstate ESTABLISHED -m statistic --mode random --probability 0.1 -j DROP"),
    ("filter", "FORWARD -m recent --name seen --rcheck --seconds 2 -j DROP"),
    ("filter", "FORWARD -p tcp --syn -m recent --name seen --set"),
    ("filter", "FORWARD -m recent --name never --rcheck -j DROP"),
    ("filter", "FORWARD -p tcp --dport 8080 -m limit --limit 5/sec --limit-burst 3 -j DROP"),
    ("filter", "FORWARD -p tcp --sport 32768:32772 -j DROP"),
    ("filter", "FORWARD -p tcp --dport 32770:32790 -j DROP"),
    ("filter", "FORWARD -p tcp --dport 32769 -j REJECT --reject-with tcp-reset"),
    ("filter", "FORWARD -s 203.0.113.1/32 -j DROP"),
    ("filter", "FORWARD -d 203.0.113.2/32 -j DROP"),
    ("filter", "INPUT -s 203.0.113.0/31 -p tcp -j REJECT"),
    ("filter", "FORWARD -p tcp --sport 8080 -m addrtype --dst-type LOCAL -j DROP"),
    ("nat", "POSTROUTING -p tcp --dport 8080 -j MASQUERADE"),
    ("nat", "POSTROUTING -p tcp -j MASQUERADE --random-fully"),
    ("nat", "POSTROUTING -p tcp --dport 8080 -j MASQUERADE --to-ports 2000-2003"),
    ("nat", "POSTROUTING -p tcp --dport 8080 -j SNAT --to-source 198.51.100.77"),
    ("nat", "PREROUTING -p tcp --dport 30080 -m statistic --mode random --probability 0.4 -j REDIRECT --to-ports 30081"),
    ("nat", "PREROUTING -p tcp --dport 30080 -j DNAT --to-destination :31000-31003"),
    ("mangle", "PREROUTING -p tcp -j MARK --set-xmark 0x10/0x10"),
    ("mangle", "FORWARD -p tcp -m statistic --mode random --probability 0.5 -j CONNMARK --set-xmark 0x1/0x1"),
    ("mangle", "FORWARD -p tcp -j TTL --ttl-set 9"),
    ("raw", "PREROUTING -s 203.0.113.2/32 -j CT --notrack"),
)  # fmt: skip
NFT = (
    "table inet fw { chain f { type filter hook forward priority 0; tcp dport 8080 limit rate 5/second drop; } }",
    "table inet fw { chain f { type filter hook forward priority 0; ct state new numgen inc mod 3 == 0 drop; } }",
    "table inet fw { chain f { type filter hook forward priority 0; ct state new numgen random mod 3 == 0 drop; } }",
    "table ip fw { set s { type ipv4_addr; flags dynamic, timeout; timeout 1s; } chain p { type filter hook prerouting priority 0;"
    " tcp dport 30080 add @s { ip saddr }; } }",
    "table ip fw { set s { type ipv4_addr; elements = { 203.0.113.1, 203.0.113.9 }; } chain f { type filter hook forward priority 0;"
    " ip saddr @s drop; } }",
    "table ip fw { chain f { type filter hook forward priority 0; ip daddr { 203.0.113.0-203.0.113.1 } tcp sport 8080 drop; } }",
    "table ip fw { chain f { type filter hook forward priority 0; jhash ip saddr . tcp sport mod 3 seed 0x7 == 0 drop; } }",
    "table ip fw { chain n { type nat hook postrouting priority 90; tcp dport 8080 masquerade random; } }",
    "table ip fw { chain n { type nat hook postrouting priority 90; tcp dport 8080 masquerade; } }",
)  # fmt: skip
EVENTS = (
    "rollout: {workload: web}", "crash: {workload: web}", "scale: {workload: web, replicas: 1}", "scale: {workload: web, replicas: 4}",
    "deletePods: {workload: web, force: true}", "nodeDown: {nodes: [node-2]}", "reboot: {node: node-1, takes: 1s}",
    "restartProxy: {nodes: [node-1]}", "failSyncs: {nodes: [node-1], count: 2}", "readiness: {workload: web}",
    "patchService: {service: web, patch: {spec: {externalTrafficPolicy: Local}}}",
    "patchService: {service: web, patch: {spec: {sessionAffinity: ClientIP}}}",
    "patchService: {service: other, patch: {spec: {externalIPs: [198.51.100.9]}}}",
    "patchService: {service: web, patch: {spec: {selector: {app: other}}}}",
    "deleteService: {service: other}",
    "flushRules: {tool: nft, nodes: [node-1]}", "flushRules: {tool: iptables, tables: [nat], keepChains: true}",
    "losePackets: {nodes: [node-1], share: 0.5, for: 700ms}", "setConntrackMax: {max: 9, for: 1s}",
    "fillConntrack: {entries: 30, unreplied: true, for: 2s}",
)  # fmt: skip
TRAFFIC = (
    "via: nodePort, clients: 4", "via: nodePort, clients: 3, nodes: [node-1]", "via: nodePort, clients: 2, sourcePorts: 2",
    "via: nodePort, clients: 4, nat: true", "via: nodePort, clients: 3, nat: true, sourcePorts: 2", "from: pods, workload: client",
    "from: pods, workload: client, via: nodePort", "from: pods, workload: web", "from: pods, workload: web, sourcePorts: 1",
    "from: nodes", "from: nodes, via: nodePort", "from: nodes, sourcePorts: 3", "from: pods, workload: host",
    "via: loadBalancer, clients: 3", "from: pods, workload: client, via: loadBalancer",
    "via: nodePort, clients: 2, connectTimeout: 4s, retries: {count: 2}", "via: nodePort, clients: 2, long: {lasts: 1s}",
    "from: pods, workload: client, keepAlive: {connections: 2}",
)  # fmt: skip


#: delays of every stage between a pod and the rules
DELAYS = (
    "delays: {preset: typical, pleg: {uniform: {low: 0s, high: 1s}}, controllerBatch: 300ms, sliceWrite: {uniform: {low: 5ms, high: 400ms}}, "
    "watchDelivery: {exponential: {mean: 200ms}}, sync: {base: {uniform: {low: 20ms, high: 900ms}}}}"
)


def random_scenario(choose: Choose[Any], mode: str, *, delays: bool = False) -> Scenario:
    """A scenario of two or three nodes, with a few hundred connections at most. With ``delays`` no stage is quick."""
    family = choose(("IPv4", "IPv4", "IPv4", "IPv6", "both"))
    families = ("IPv4", "IPv6") if family == "both" else (family,)
    seconds, rate = choose(((5, 9), (5, 9), (5, 9), (66, 1)))
    sysctls = choose(("", "", "", "net.netfilter.nf_conntrack_max: 12", "net.netfilter.nf_conntrack_tcp_timeout_time_wait: 2",
                      "net.ipv4.conf.all.rp_filter: 1", "net.netfilter.nf_conntrack_tcp_loose: 0"))  # fmt: skip
    affinity = choose(("None", "None", "None", "ClientIP"))
    policy = choose(("Cluster", "Cluster", "Local"))
    protocol = choose(("TCP", "TCP", "TCP", "TCP", "UDP"))
    target = choose((8080, 8080, 80, 32770))
    ranges = choose(("", "", "loadBalancerSourceRanges: [203.0.113.0/31], "))
    web = choose(("", "", "hostNetwork: true, "))
    ips = ", ".join({"IPv4": "172.30.0.10", "IPv6": "fd00:30::10"}[each] for each in families)
    dual = "ipFamilyPolicy: RequireDualStack, " if len(families) > 1 else ""
    lines = [
        "apiVersion: kpsim.dev/v1alpha1", "kind: Scenario", "metadata: {name: random}", f"duration: {seconds}s",
        f"nodes: {{count: {choose((2, 3))}, ipFamilies: [{', '.join(families)}], sysctls: {{{sysctls}}}}}",
        f"proxy: {{iptables: {{masqueradeAll: {choose(('false', 'false', 'true'))}}}, conntrack: {{maxPerCore: 0}}}}",
        "workloads:",
        f"  - {{name: web, replicas: {choose((1, 2, 3))}, {web}ports: [{{containerPort: {target}, protocol: {protocol}}}], "
        "startup: {delay: 300ms}, termination: {preStop: 500ms}}",
        "  - {name: other, replicas: 2, ports: [{containerPort: 8080}]}",
        "  - {name: client, replicas: 2}", "  - {name: host, replicas: 1, hostNetwork: true}",
        "loadBalancer: {interval: 1s}",
        *([DELAYS] if delays else []),
        "objects:",
        "  - {apiVersion: v1, kind: Service, metadata: {name: web}, spec: {type: LoadBalancer, selector: {app: web}, "
        f"clusterIP: '{ips.split(', ')[0]}', clusterIPs: [{ips}], {dual}{ranges}ipFamilies: [{', '.join(families)}], externalTrafficPolicy: {policy}, sessionAffinity: {affinity}, "
        f"ports: [{{port: 80, targetPort: {target}, nodePort: 30080, protocol: {protocol}}}]}}, "
        f"status: {{loadBalancer: {{ingress: [{{ip: {choose(('198.51.100.20', '198.51.100.20, ipMode: Proxy'))}}}]}}}}}}",
        f"  - {{apiVersion: v1, kind: Service, metadata: {{name: other}}, spec: {{clusterIP: '{ips.split(', ')[0][:-2]}20', selector: {{app: other}}, "
        f"ipFamilies: [{families[0]}], ports: [{{port: 80, targetPort: 8080}}]}}}}",
    ]  # fmt: skip
    rules = _beside(choose, families)
    if rules:
        lines += ["beside:", *(f"  - {{nodes: [{node}], rules: {json.dumps(text)}}}" for node, text in rules)]
    lines.append("events:" if (count := choose((0, 1, 2, 3))) else "events: []")
    lines += [
        f"  - {{at: {choose((1, 2, 3))}{choose(('00ms', '300ms', '777ms'))}, {choose(EVENTS)}}}" for _ in range(count)
    ]
    lines.append("traffic:")
    for number in range(choose((1, 2, 3))):
        how = choose(TRAFFIC)
        lines.append(f"  - {{name: t{number}, service: web, perSecond: {rate}, {how}}}")
    if choose((False, True)):
        lines.append(f"  - {{name: o, service: other, from: pods, workload: client, perSecond: {rate}}}")
    return parse_scenario("\n".join(lines) + "\n", "random.yaml").with_mode(mode)


def _beside(choose: Choose[Any], families: tuple[str, ...]) -> list[tuple[str, str]]:
    if families != ("IPv4",):
        return []
    found = []
    for _ in range(choose((0, 0, 1, 1, 2))):
        if choose((True, True, False)):
            table, rule = choose(IPTABLES)
            text = f"*{table}\n-A {rule}\nCOMMIT\n"
        else:
            text = choose(NFT)
        found.append((choose(("node-1", "node-2")), text))
    return found


def left_behind(scenario: Scenario, *, walk_all: bool, seed: int = 1) -> tuple[dict[str, Any], int]:
    """Everything that a run leaves: its log, and what each node remembers, in order. And how many connections were written."""
    run = Run(replace(scenario, walk_all=walk_all), seed)
    log = run.run(None)
    nodes: dict[str, Any] = {}
    for node in run.nodes:
        netns = run.machines.netns(node.name)
        table, memory = netns.conntrack, netns.memory
        nodes[node.name] = {
            "entries": list(table),
            "unassured": list(table._unassured),
            "timers": table._timed,
            "by source": table._by_source,
            "found": table._found,
            "turned away": table.turned_away,
            "counters": memory.counters,
            "buckets": memory.buckets,
            "numbers": memory.numbers,
            "ipvs": list(memory.ipvs),
            "lists": {name: list(each._stamps.items()) for name, each in memory.recent._lists.items()},
            "sets": memory.sets._members,
            "icmp": vars(memory.icmp_limiter) if memory.icmp_limiter is not None else None,
        }
    written = 0 if run.machines.flow_cache is None else run.machines.flow_cache.written
    return {"log": log, "nodes": nodes}, written
