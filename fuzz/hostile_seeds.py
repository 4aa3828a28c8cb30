"""Every kind of input that kpsim takes: valid seeds, the commands that read it, and how its structure is spoilt."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml

from fuzz.mild import mild_capture, mild_documents, mild_json_lines, mild_rules, mild_scenario, written
from fuzz.mutating import hostile_documents, hostile_json_lines
from kpsim.verify.drawing.choices import Choices

Spoil = Callable[[Choices, bytes], bytes]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of input. ``FILE`` in a command is the file under test, ``@NAME`` a valid file that stands beside it."""

    name: str
    suffix: str  #: of the file under test; empty: the arguments themselves are under test
    seeds: Sequence[bytes]
    commands: Sequence[Sequence[str]]
    spoil: Spoil | None = None
    beside: Mapping[str, bytes] = field(default_factory=dict)
    mild: Spoil | None = None  #: puts a value at an edge into what stays a document of this kind
    beside_mild: Mapping[str, Spoil] = field(default_factory=dict)  #: the same for files beside
    every: int = 1  #: only each so-and-so-many-th number is tried, as its commands take long


NODES = b"""apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/zone: a}}
spec: {podCIDRs: [10.180.0.0/24, "fd00:180::/64"]}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}, {type: InternalIP, address: "2001:db8:1::1"}]}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
spec: {podCIDR: 10.180.1.0/24}
status: {addresses: [{type: InternalIP, address: 192.168.0.2}]}
"""
CONFIG = b"""---
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: 10.180.0.0/16
hostnameOverride: ""
nodePortAddresses: [192.168.0.0/16]
conntrack: {maxPerCore: 0, min: 1000, tcpEstablishedTimeout: 1h, tcpBeLiberal: true, udpTimeout: 10s, udpStreamTimeout: 20s}
iptables: {masqueradeAll: false, masqueradeBit: 14, syncPeriod: 30s, minSyncPeriod: 1s, localhostNodePorts: true}
"""
SERVICE = b"""---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, labels: {a: b}, annotations: {x: y}, creationTimestamp: "2026-01-01T00:00:00Z"}
spec:
  type: LoadBalancer
  clusterIP: 172.30.0.10
  clusterIPs: [172.30.0.10]
  ipFamilies: [IPv4]
  ipFamilyPolicy: SingleStack
  externalIPs: [203.0.113.5]
  loadBalancerSourceRanges: [198.51.100.0/24]
  externalTrafficPolicy: Local
  internalTrafficPolicy: Cluster
  healthCheckNodePort: 31000
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 100}}
  selector: {app: web}
  ports: [{name: p, protocol: TCP, port: 80, targetPort: 8080, nodePort: 30080}]
status: {loadBalancer: {ingress: [{ip: 192.0.2.10, ipMode: VIP}]}}
"""
SLICE = b"""---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}, generation: 3}
addressType: IPv4
ports: [{name: p, protocol: TCP, port: 8080}]
endpoints:
- {addresses: ["10.180.0.5"], nodeName: n1, zone: a, conditions: {ready: true, serving: true, terminating: false}, hints: {forZones: [{name: a}]}}
- {addresses: ["10.180.1.5"], nodeName: n2, conditions: {ready: false}, targetRef: {kind: Pod, name: web-2, namespace: shop}}
"""
POD = b"""---
apiVersion: v1
kind: Pod
metadata: {name: web-9, namespace: shop, labels: {app: web}}
spec: {nodeName: n1, containers: [{name: c, image: i, ports: [{name: http, containerPort: 8080}]}]}
status: {phase: Running, podIP: 10.180.0.9, podIPs: [{ip: 10.180.0.9}], conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: List
items: [{apiVersion: v1, kind: Endpoints, metadata: {name: old, namespace: shop}, subsets: [{addresses: [{ip: 10.180.0.7}], ports: [{port: 1}]}]}]
"""
#: what makes and keeps the pods: every field that drafts read
KEEPERS = b"""---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  minReadySeconds: 3
  strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 1, maxUnavailable: 25%}}
  template:
    metadata: {labels: {app: web}}
    spec:
      hostNetwork: false
      terminationGracePeriodSeconds: 40
      nodeSelector: {topology.kubernetes.io/zone: a}
      tolerations: [{key: k, operator: Equal, value: v, effect: NoSchedule}]
      readinessGates: [{conditionType: ready.to/serve}]
      topologySpreadConstraints: [{topologyKey: topology.kubernetes.io/zone, maxSkew: 2, whenUnsatisfiable: DoNotSchedule}]
      affinity:
        nodeAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            nodeSelectorTerms: [{matchExpressions: [{key: disk, operator: NotIn, values: [hdd]}]}]
      containers:
      - name: c
        ports: [{name: http, containerPort: 8080, protocol: TCP}]
        startupProbe: {periodSeconds: 2, failureThreshold: 30}
        readinessProbe: {initialDelaySeconds: 1, periodSeconds: 5, timeoutSeconds: 2, successThreshold: 1, failureThreshold: 2}
        livenessProbe: {periodSeconds: 10}
        lifecycle: {preStop: {exec: {command: [sh, -c, "sleep 5; stop"]}}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: shop}
spec:
  podManagementPolicy: Parallel
  updateStrategy: {rollingUpdate: {partition: 1}}
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, lifecycle: {preStop: {sleep: {seconds: 2}}}}]}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web, namespace: shop}
spec: {minAvailable: 1, selector: {matchLabels: {app: web}, matchExpressions: [{key: app, operator: Exists}]}}
"""
CLUSTER = NODES + SERVICE + SLICE
RULES = b"""# Generated by iptables-save
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [1:2]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-A - [0:0]
:KUBE-SEP-A - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-SERVICES -d 172.30.0.10/32 -p tcp -m comment --comment "a/b:c cluster IP" -m tcp --dport 80 -j KUBE-SVC-A
-A KUBE-SVC-A -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-A
-A KUBE-SVC-A -m recent --rcheck --seconds 10 --reap --name KUBE-SEP-A --mask 255.255.255.255 --rsource -j KUBE-SEP-A
-A KUBE-SEP-A -p tcp -m tcp -j DNAT --to-destination 10.180.0.5:8080
-A POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A POSTROUTING -s 10.0.0.0/8 ! -o eth0 -j MASQUERADE --random-fully
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -i lo -p icmp -m icmp --icmp-type 8 -m limit --limit 3/min --limit-burst 5 -j LOG --log-prefix "x: " --log-level 4
-A INPUT -p tcp -m multiport --dports 22,80:90 -m addrtype --dst-type LOCAL -j REJECT --reject-with tcp-reset
-A FORWARD -m iprange --src-range 10.0.0.1-10.0.0.9 -m tcp -p tcp --tcp-flags FIN,SYN,RST,ACK SYN -j DROP
[3:4] -A OUTPUT -d 1.2.3.4/255.255.0.0 -j ACCEPT
COMMIT
"""
SCENARIO = b"""apiVersion: kpsim.dev/v1alpha1
kind: Scenario
metadata: {name: s}
description: a run
seed: 3
duration: 4s
nodes: {count: 2}
proxy: {iptables: {minSyncPeriod: 1s}}
workloads:
- {name: web, namespace: shop, replicas: 2, ports: [{containerPort: 8080}], startup: {delay: 1s}, readiness: {probeDelay: 0s}, termination: {preStop: 1s}}
objects:
- apiVersion: v1
  kind: Service
  metadata: {name: web, namespace: shop}
  spec: {type: LoadBalancer, externalTrafficPolicy: Local, clusterIP: 172.30.0.10, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30080}], healthCheckNodePort: 32080}
  status: {loadBalancer: {ingress: [{ip: 198.51.100.10}]}}
loadBalancer: {interval: 2s, unhealthyThreshold: 2, healthyThreshold: 2}
events:
- {at: 1s, rollout: {workload: web, maxSurge: 1, maxUnavailable: 0}}
traffic:
- {name: customers, from: outside, service: shop/web, via: loadBalancer, perSecond: 5, clients: 3}
expect:
- dropped <= 1000
"""
PROBES = b"""{"id": 1, "node": "n1", "from": "pod", "dst": "172.30.0.10", "dport": 80, "protocol": "TCP"}
{"id": "x", "node": "n1", "from": "external", "src": "198.51.100.7", "sport": 5, "dst": "192.0.2.10", "dport": 80}
{"id": 2, "node": "n1", "from": "node", "dst": "192.168.0.1", "protocol": "ICMP"}
{"id": 3, "node": "n1", "from": "peer", "dst": "192.168.0.1", "dport": 30080, "protocol": "UDP"}
"""
RECORDING = b"""{"type":"CONFIG","ipFamily":"IPv4","object":{"apiVersion":"kubeproxy.config.k8s.io/v1alpha1","kind":"KubeProxyConfiguration","mode":"iptables","hostnameOverride":"n1","clusterCIDR":"10.180.0.0/16","iptables":{"minSyncPeriod":"1s","syncPeriod":"30s"}},"host":{"nodeIPs":["192.168.0.1"],"interfaces":[{"name":"lo","addresses":["127.0.0.1/8"]},{"name":"eth0","addresses":["192.168.0.1/24"]}],"nfacct":false,"randomFully":true,"tcpBeLiberal":false,"serviceCIDRs":["172.30.0.0/16"]}}
{"type":"ADDED","object":{"kind":"Node","apiVersion":"v1","metadata":{"name":"n1","resourceVersion":"1"},"spec":{"podCIDR":"10.180.0.0/24"},"status":{"addresses":[{"type":"InternalIP","address":"192.168.0.1"}]}}}
{"type":"ADDED","object":{"kind":"Service","apiVersion":"v1","metadata":{"name":"web","namespace":"shop","resourceVersion":"2"},"spec":{"type":"NodePort","clusterIP":"172.30.0.10","clusterIPs":["172.30.0.10"],"ipFamilies":["IPv4"],"sessionAffinity":"ClientIP","ports":[{"name":"p","protocol":"UDP","port":80,"targetPort":8080,"nodePort":30080}]}}}
{"type":"ADDED","object":{"kind":"EndpointSlice","apiVersion":"discovery.k8s.io/v1","metadata":{"name":"web-1","namespace":"shop","labels":{"kubernetes.io/service-name":"web"}},"addressType":"IPv4","ports":[{"name":"p","protocol":"UDP","port":8080}],"endpoints":[{"addresses":["10.180.0.5"],"nodeName":"n1","conditions":{"ready":true}}]}}
{"type":"SYNC","afterSeconds":0.9,"host":{"conntrack":[{"proto":"udp","src":"10.180.0.9","sport":5,"dst":"172.30.0.10","dport":80,"replySrc":"10.180.0.5","replySport":8080,"replyDst":"10.180.0.9","replyDport":5}]}}
{"type":"DELETED","object":{"kind":"EndpointSlice","apiVersion":"discovery.k8s.io/v1","metadata":{"name":"web-1","namespace":"shop","labels":{"kubernetes.io/service-name":"web"}},"addressType":"IPv4","ports":[],"endpoints":[]}}
{"type":"SYNC","host":{"failSync":true}}
"""
EXPRESSIONS = (
    'IP(src="198.51.100.7",dst="192.0.2.10")/TCP(sport=5,dport=80,flags="S")', 'IPv6(dst="fd00::1")/UDP(dport=53)/Raw("abc")',
    'IP(dst="192.0.2.10",ttl=3)/ICMP(type=8,id=7)', 'IP(dst="192.0.2.10")/ICMP(type=3,code=1)/IPerror(src="1.2.3.4",dst="1.2.3.5")/TCPerror()',
    'IP(dst="192.0.2.10",frag=0)/SCTP(dport=80)', 'IP(dst="192.0.2.10")/TCP(seq=1,ack=2,window=0)/Raw(load=b"x")',
)  # fmt: skip
NETWORK = b"""1: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536 qdisc noqueue state UNKNOWN
    inet 127.0.0.1/8 scope host lo
2: eth0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc mq state UP
    inet 192.168.0.1/24 brd 192.168.0.255 scope global eth0
3: vlan17@eth0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1400 qdisc noqueue state UP
    inet 10.46.0.1/16 brd 10.46.255.255 scope global vlan17
4: cni0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1450 qdisc noqueue state UP
    inet 10.180.0.1/24 brd 10.180.0.255 scope global cni0
default via 192.168.0.254 dev eth0 proto static metric 100 mtu lock 1480
10.180.1.0/24 via 192.168.0.2 dev eth0
10.42.0.0/16 via 10.46.0.254 dev vlan17 table 17 onlink
unreachable 10.99.0.0/16 metric 4294967295
0:	from all lookup local
100:	not from 10.46.0.0/16 fwmark 0x10/0x10 iif vlan17 lookup 17
32766:	from all lookup main
Netid State  Recv-Q Send-Q Local Address:Port Peer Address:Port Process
tcp   LISTEN 0      4096       127.0.0.1:10249      0.0.0.0:*    users:(("kube-proxy",pid=1,fd=9))
udp   UNCONN 0      0       [::]%eth0:53        [::]:*
"""
CONNECTIONS = b"""conntrack v1.4.7 (conntrack-tools): 5 flow entries have been shown.
tcp      6 86397 ESTABLISHED src=10.180.0.9 dst=172.30.0.10 sport=5 dport=80 packets=2 bytes=112 src=10.180.0.6 dst=10.180.0.9 sport=8080 dport=5 packets=1 bytes=60 [ASSURED] mark=0 delta-time=1 use=1
udp      17 28 src=10.180.0.9 dst=172.30.0.10 sport=5 dport=80 [UNREPLIED] src=172.30.0.10 dst=10.180.0.9 sport=80 dport=5 mark=16 use=1
icmp     1 29 src=10.180.0.9 dst=10.180.1.5 type=8 code=0 id=7 src=10.180.1.5 dst=10.180.0.9 type=0 code=0 id=7 mark=0 use=1
ipv6     10 tcp      6 60 TIME_WAIT src=fd00:180::9 dst=fd00:180::5 sport=5 dport=80 src=fd00:180::5 dst=fd00:180::9 sport=80 dport=5 [ASSURED] mark=0 zone=0 use=2
ipv4     2 gre      47 28 timeout=30, stream_timeout=180 src=10.0.0.1 dst=10.0.0.2 srckey=0x0 dstkey=0x0 src=10.0.0.2 dst=10.0.0.1 srckey=0x0 dstkey=0x0 mark=0 zone=3 use=2
"""
TRACE = ("trace", "@c.yaml", "--node", "n1")
SAVED = ("trace", "--rules", "@r.rules", "--node-ip", "192.168.0.1", "--dst", "192.168.0.1:80")


@cache
def captures() -> tuple[bytes, ...]:
    """A pcap in each byte order and resolution, with Ethernet and without, and a pcapng."""
    import struct

    frame = bytes.fromhex("ffffffffffff0200000000010800") + bytes.fromhex(
        "4500002800010000400600000a00000ac000020a000500500000000000000000500220000000" + "0000"
    )
    frames = [frame, frame[14:], b"", b"\x60" + bytes(39), frame[:20]]

    def pcap(order: str, magic: int, link: int) -> bytes:
        head = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65535, link)
        body = [
            struct.pack(f"{order}IIII", 1700000000 + n, n, len(each), len(each)) + each for n, each in enumerate(frames)
        ]
        return head + b"".join(body)

    def block(kind: int, body: bytes) -> bytes:
        length = len(body) + 12
        return struct.pack("<II", kind, length) + body + struct.pack("<I", length)

    section = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
    interface = block(1, struct.pack("<HHI", 1, 0, 65535))
    padded = frame + bytes(-len(frame) % 4)
    packet = block(6, struct.pack("<IIIII", 0, 400000, 5, len(frame), len(frame)) + padded)
    return (
        pcap("<", 0xA1B2C3D4, 1), pcap(">", 0xA1B2C3D4, 1), pcap("<", 0xA1B23C4D, 101), pcap("<", 0xA1B2C3D4, 113), section + interface + packet * 2,
    )  # fmt: skip


@cache
def kinds() -> tuple[Kind, ...]:
    """All kinds of input, in the order in which they are tried."""
    beside = {"c.yaml": CLUSTER, "r.rules": RULES, "s.yaml": SCENARIO, "rec.recording.jsonl": RECORDING}
    trace = (*TRACE, "--dst", "192.0.2.10:80", "--expand")
    rules = ("rules", "FILE", "--node", "NODE")
    return (
        Kind("manifests", ".yaml", (CLUSTER, NODES + SERVICE + POD, CLUSTER + POD), (rules, ("trace", "FILE", "--node", "n1", "--dst", "192.0.2.10:80", "--from", "external"), ("trace", "FILE", "--node", "n1", "--dst", "192.0.2.10:80", "--format", "json", "--expand")), hostile_documents, mild=mild_documents),
        Kind("configuration", ".yaml", (CONFIG,), (("rules", "@c.yaml", "FILE", "--node", "n1"), ("trace", "@c.yaml", "FILE", "--node", "n1", "--dst", "192.0.2.10:80")), hostile_documents, beside, mild_documents),
        Kind("scenarios", ".yaml", (SCENARIO, *built_in()), (("run", "FILE"), ("run", "FILE", "--format", "json"), ("check", "FILE")), hostile_documents, mild=mild_scenario),
        Kind("drafts", ".yaml", (CLUSTER + KEEPERS, NODES + SERVICE + KEEPERS + POD), (("scenario", "init", "FILE"), ("scenario", "init", "FILE", "--rollout", "shop/web", "--format", "json")), hostile_documents, mild=mild_documents),
        Kind("settings", "", (b"",), tuple(("run", "@s.yaml", "--set", each) for each in ("duration=2s", "nodes.count=1", "workloads[0].replicas=3", "objects[0].spec.ports[0].port=81", "events[0].at=2s", "seed=5", "expect[0]=sent == 1", "proxy.iptables.minSyncPeriod=1s", "loadBalancer={}")), None, beside),
        Kind("recordings", ".recording.jsonl", (RECORDING, *golden()), (("replay", "FILE"), ("replay", "FILE", "--format", "json"), rules, ("check", "FILE"), ("trace", "FILE", "--node", "NODE", "--dst", "172.30.0.10:80")), hostile_json_lines, mild=mild_json_lines),
        Kind("expectations", ".expected.jsonl", expected(), (("check", "@input.recording.jsonl"),), hostile_json_lines, {"input.recording.jsonl": RECORDING}, mild_json_lines),
        Kind("probes", ".jsonl", (PROBES,), ((*TRACE, "--probes", "FILE"), ("trace", "--rules", "@r.rules", "--node-ip", "192.168.0.1", "--pod-cidr", "10.180.0.0/24", "--probes", "FILE")), hostile_json_lines, beside, mild_json_lines),
        Kind("rules", ".rules", (RULES,), (("trace", "--rules", "FILE", "--node-ip", "192.168.0.1", "--dst", "192.168.0.1:80"), ("trace", "--rules", "FILE", "--allow-unknown", "--dst", "172.30.0.10:80", "--detailed", "--expand"), ("rules", "@c.yaml", "--node", "n1", "--beside", "FILE"), (*TRACE, "--dst", "192.0.2.10:80", "--beside", "n1=FILE")), None, beside, mild_rules),
        Kind("pairs", ".jsonl", (PROBES,), (
            (*TRACE, "@config.yaml", "--beside", "n1=@r.rules", "--probes", "FILE"), (*TRACE, "--beside", "@r.rules", "--probes", "FILE", "--format", "json"), (*TRACE, "--beside", "@r.rules", "--read-pcap", "@p.pcap"),
            ("trace", "--rules", "@r.rules", "--node-ip", "192.168.0.1", "--read-pcap", "@p.pcap", "--format", "json"), ("rules", "@c.yaml", "@config.yaml", "--node", "n1", "--beside", "@r.rules"), (*TRACE, "@config.yaml", "--beside", "@r.rules", "--dst", "192.0.2.10:80", "--expand"),
        ), hostile_json_lines, {**beside, "config.yaml": CONFIG, "p.pcap": captures()[0]}, mild_json_lines, {"c.yaml": mild_documents, "r.rules": mild_rules, "config.yaml": mild_documents, "p.pcap": mild_capture}),
        Kind("captures", ".pcap", captures(), ((*TRACE, "--read-pcap", "FILE"), (*TRACE, "--read-pcap", "FILE", "--minimal")), None, beside, mild_capture),
        Kind("connections", ".txt", (CONNECTIONS,), (
            (*TRACE, "--conntrack", "FILE", "--from", "pod", "--src", "10.180.0.9:5", "--dst", "172.30.0.10:80", "--expand"),
            (*TRACE, "--conntrack", "FILE", "--from", "pod", "--src", "10.180.0.9:5", "--dst", "172.30.0.10:80", "--protocol", "UDP", "--format", "json"),
            (*SAVED, "--conntrack", "FILE", "--minimal"),
        ), None, beside),
        Kind("machines", ".txt", (NETWORK,), (
            (*TRACE, "--network", "FILE", "--in-interface", "vlan17", "--src", "10.42.0.1", "--dst", "192.0.2.10:80"), (*SAVED, "--network", "FILE", "--from", "node", "--minimal"),
        ), None, beside),
        Kind("expressions", "", (b"",), tuple((*TRACE, "--packet", each) for each in EXPRESSIONS), None, beside),
        Kind("reports", "", (b"",), (("run", "@s.yaml", "--seed", "4", "--out", "out"), ("run", "@s.yaml", "--format", "json", "--out", "new/out"), ("verify", "@c.yaml", "--node", "n9", "--out", "out")), None, beside, every=20),
        Kind("options", "", (b"",), (
            (*trace, "--sysctl", "net.netfilter.nf_conntrack_udp_timeout=10"), (*trace, "--src", "198.51.100.7:5", "--protocol", "UDP"), (*trace, "--from", "pod", "--seed", "5"),
            (*SAVED, "--interface", "eth1=10.0.0.1,2001:db8::1", "--pod-cidr", "10.180.0.0/24"), (*SAVED, "--family", "ipv4", "--from", "node", "--protocol", "ICMP"), (*SAVED, "--sysctl", "net.ipv4.conf.all.rp_filter=1"),
            (*trace, "--limit", "10"), ("rules", "@c.yaml", "--node", "n1", "--family", "ipv6", "--mode", "iptables"), ("run", "@s.yaml", "--seed", "4", "--mode", "iptables", "--format", "json"),
            ("check", "@s.yaml", "@rec.recording.jsonl", "--junit", "junit.xml"), ("replay", "@rec.recording.jsonl", "--format", "json"), ("schema",), ("scenarios", "--format", "text"),
            (*TRACE, "--dst", "192.0.2.10:80", "--pcap", "out.pcap"), ("verify", "@c.yaml", "--node", "n9", "--sysctl", "net.ipv4.conf.all.rp_filter=7"), ("verify", "--random", "1", "--mode", "iptables"), ("verify", "--random", "1000000", "--clusters", "3"), ("verify", "@c.yaml", "--probes", "@r.rules", "--repeat", "2"),
        ), None, beside),
    )  # fmt: skip


@cache
def expected() -> tuple[bytes, ...]:
    """The expected output of the recording."""
    from kpsim.recording import parse_recording
    from kpsim.replay import Replay

    outcomes = Replay(parse_recording(RECORDING.decode().split("\n"))).outcomes()
    return ("".join(f"{outcome.to_line()}\n" for outcome in outcomes).encode(),)


@cache
def golden() -> tuple[bytes, ...]:
    """The small recordings that the tests hold."""
    folder = Path(__file__).parent.parent / "tests" / "golden" / "iptables"
    found = sorted(folder.glob("*.recording.jsonl"))
    return tuple(each.read_bytes() for each in found if each.stat().st_size < 40_000)


@cache
def built_in() -> tuple[bytes, ...]:
    """The built-in scenarios with little traffic, so that a run takes less than a second."""
    from kpsim.scenarios import scenario_names, scenario_path

    found = []
    for name in scenario_names():
        scenario = yaml.safe_load(scenario_path(name).read_text(encoding="utf-8"))
        for traffic in scenario.get("traffic", ()):
            traffic["perSecond"] = min(traffic["perSecond"], 5)
        found.append(written([scenario]))
    return tuple(found)
