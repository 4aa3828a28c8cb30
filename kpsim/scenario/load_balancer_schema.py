"""The load balancers of a scenario: how they probe nodes, choose among them, and treat connections that are open.

``PRESETS`` are those that people meet (FIG-3), each with where its values come from: code at a commit, and documentation.
A field that the file gives takes precedence over the preset.
"""

import enum
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, Self

from pydantic import Field, model_validator

from kpsim.scenario.node_schema import Positive
from kpsim.scenario.quantities import Delay, DurationNs, Part, file_name
from kpsim.units import MILLISECOND_NS, SECOND_NS, format_duration


class Distribution(enum.StrEnum):
    """How a new connection gets its node.

    ``consistentHash``: by its addresses and ports; a node that leaves or returns moves only its own share. ``hash``: by
    them modulo the number of nodes; any change moves most. ``roundRobin``: in turn. ``leastConnections``: the node with
    the fewest open connections. ``oneNode``: one node of the Service gets all.
    """

    CONSISTENT_HASH = "consistentHash"
    HASH = "hash"
    ROUND_ROBIN = "roundRobin"
    LEAST_CONNECTIONS = "leastConnections"
    ONE_NODE = "oneNode"


class Check(enum.StrEnum):
    """What is asked of a node.

    ``serviceHealth``: the Service's health check node port, or ``/healthz`` if it has none. ``trafficPort``: a TCP
    connection to its node port, through the rules, or the health check node port if it has one. ``announcement``: the node
    announces the Service itself, while the machine runs and has an endpoint that can serve (of the policy Cluster: while
    any node has one).
    """

    SERVICE_HEALTH = "serviceHealth"
    TRAFFIC_PORT = "trafficPort"
    ANNOUNCEMENT = "announcement"


class OpenConnections(enum.StrEnum):
    """What becomes of open connections to a node that is taken for unhealthy."""

    KEEP = "keep"
    CUT = "cut"


class Preset(enum.StrEnum):
    """A load balancer that is known by name."""

    AWS_NLB = "aws-nlb"
    AWS_NLB_CONTROLLER = "aws-nlb-controller"
    AWS_CLB = "aws-clb"
    GCP = "gcp"
    AZURE = "azure"
    METALLB_L2 = "metallb-l2"
    METALLB_BGP = "metallb-bgp"


class PresetRow(NamedTuple):
    """The values of a preset by field. ``local`` replaces some for Services with externalTrafficPolicy Local."""

    meaning: str
    values: Mapping[str, Any]
    local: Mapping[str, Any]
    source: str


def _checks(interval_s: int, timeout_s: int, healthy: int, unhealthy: int) -> dict[str, Any]:
    return {
        "interval_ns": interval_s * SECOND_NS,
        "timeout_ns": timeout_s * SECOND_NS,
        "healthy_threshold": healthy,
        "unhealthy_threshold": unhealthy,
    }


_NLB = {"check": Check.TRAFFIC_PORT, "unhealthy_connections": OpenConnections.CUT, "fail_open": True}
_NLB_SOURCE = "AWS documentation of Network Load Balancers, health checks of target groups"

PRESETS: Mapping[Preset, PresetRow] = {
    Preset.AWS_NLB: PresetRow(
        "AWS Network Load Balancer by the cloud controller manager",
        {**_checks(30, 10, 3, 3), **_NLB},
        _checks(10, 10, 2, 2),
        f"cloud-provider-aws 007b18e, aws_loadbalancer.go and aws.go; {_NLB_SOURCE}",
    ),
    Preset.AWS_NLB_CONTROLLER: PresetRow(
        "AWS Network Load Balancer by the AWS Load Balancer Controller, target type instance",
        {**_checks(10, 10, 3, 3), **_NLB},
        {},
        f"aws-load-balancer-controller 00681b8, docs/guide/service/annotations.md; {_NLB_SOURCE}",
    ),
    Preset.AWS_CLB: PresetRow(
        "AWS Classic Load Balancer by the cloud controller manager, without connection draining",
        {
            **_checks(10, 5, 2, 6),
            "check": Check.TRAFFIC_PORT,
            "distribution": Distribution.ROUND_ROBIN,
            "unhealthy_connections": OpenConnections.CUT,
            "deregistration_delay_ns": 0,
            "preserve_client_ip": False,
        },
        {},
        "cloud-provider-aws 007b18e, aws_loadbalancer.go; AWS documentation of Classic Load Balancers, connection draining",
    ),
    Preset.GCP: PresetRow(
        "Google Cloud passthrough Network Load Balancer",
        {**_checks(8, 1, 1, 3), "fail_open": True},
        {},
        "cloud-provider-gcp 2829429, providers/gce/gce.go; Google Cloud documentation, traffic distribution of passthrough"
        " Network Load Balancers",
    ),
    Preset.AZURE: PresetRow(
        "Azure Standard Load Balancer",
        {"interval_ns": 5 * SECOND_NS, "unhealthy_threshold": 2, "healthy_threshold": 2, "check": Check.TRAFFIC_PORT},
        {},
        "cloud-provider-azure, pkg/consts/consts.go; Azure documentation, health probes",
    ),
    Preset.METALLB_L2: PresetRow(
        "MetalLB in layer 2 mode: one node answers for the address",
        {
            "interval_ns": SECOND_NS,
            "timeout_ns": 500 * MILLISECOND_NS,
            "unhealthy_threshold": 5,
            "healthy_threshold": 1,
            "check": Check.ANNOUNCEMENT,
            "distribution": Distribution.ONE_NODE,
            "tracking": False,
        },
        {},
        "metallb 238396d, website/content/concepts/layer2.md; memberlist's LAN defaults: a probe a second, 4 s of suspicion",
    ),
    Preset.METALLB_BGP: PresetRow(
        "MetalLB in BGP mode, without BFD: routers hash each packet",
        {
            "interval_ns": 30 * SECOND_NS,
            "unhealthy_threshold": 3,
            "healthy_threshold": 1,
            "check": Check.ANNOUNCEMENT,
            "distribution": Distribution.HASH,
            "tracking": False,
        },
        {},
        "metallb 331fe2c, website/content/concepts/bgp.md; hold time 90 s, with a keepalive each third of it",
    ),
}


PRESETS_READ = "2026-11-30"  #: when the sources of the presets were read


class LoadBalancerSpec(Part):
    """How load balancers health-check nodes; a node starts in rotation if its check passes at the start."""

    preset: Preset | None = None
    """Values of a load balancer that is known by name; fields that are given override them."""
    interval_ns: Annotated[DurationNs, Field(ge=10 * MILLISECOND_NS)] = 5 * SECOND_NS
    timeout_ns: DurationNs = 0
    """How long a probe waits for a machine that does not answer. A refusal and an answer other than 200 count at once."""
    unhealthy_threshold: Positive = 2
    healthy_threshold: Positive = 2
    check: Check = Check.SERVICE_HEALTH
    distribution: Distribution = Distribution.CONSISTENT_HASH
    tracking: bool = True
    """Open TCP connections stay with their node. ``false``: every packet is distributed anew, as by routers (ECMP)."""
    fail_open: bool = False
    """If no node is healthy, send to all of them."""
    unhealthy_connections: OpenConnections = OpenConnections.KEEP
    """What becomes of open connections to a node that is taken for unhealthy, unless all are. The client of one that was cut is told so
    at its next packet."""
    deregistration_delay_ns: DurationNs | None = None
    """From the moment when a node is no longer among the load balancer's nodes until its open connections are cut. Left out: they
    are not."""
    preserve_client_ip: Annotated[bool, Field(alias="preserveClientIP")] = True
    """Nodes see the clients' addresses. ``false``: the load balancer is a proxy that dials node ports from its own address."""
    node_update: Delay = Delay.of(0)
    """From the creation or deletion of a Node, or a change of its label node.kubernetes.io/exclude-from-external-load-balancers, until
    load balancers have the new set of nodes (CP-14.3)."""
    node_resync_ns: Annotated[DurationNs, Field(ge=SECOND_NS)] = 100 * SECOND_NS
    """How often the set of nodes is made anew. Only then does the autoscaler's taint take a node out of it (CP-14.3)."""

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        for local in (False, True):
            found = self.resolved(local=local)
            if found.timeout_ns > found.interval_ns:
                raise ValueError("expected timeout to be at most interval: probes of a node follow each other")
            if not found.tracking and found.distribution in (Distribution.ROUND_ROBIN, Distribution.LEAST_CONNECTIONS):
                raise ValueError(
                    f"distribution {found.distribution} goes with tracking: packets have no turn of their own"
                )
            if not found.tracking and not found.preserve_client_ip:
                raise ValueError("a proxy keeps its connections: preserveClientIP: false goes with tracking")
            if not found.tracking and "unhealthy_connections" in self.model_fields_set:
                raise ValueError("without tracking no connection is known: unhealthyConnections goes with tracking")
            if not found.tracking and self.deregistration_delay_ns is not None:
                raise ValueError("without tracking no connection is known: deregistrationDelay goes with tracking")
        return self

    def resolved(self, *, local: bool) -> "LoadBalancerSpec":
        """Return the values that hold for a Service with externalTrafficPolicy Local, or Cluster.

        A preset's timeout is cut to an interval that the file gives.
        """
        if self.preset is None:
            return self
        row = PRESETS[self.preset]
        values = {**row.values, **(row.local if local else {})}
        update = {name: value for name, value in values.items() if name not in self.model_fields_set}
        if "timeout_ns" in update and "interval_ns" in self.model_fields_set:
            update["timeout_ns"] = min(update["timeout_ns"], self.interval_ns)
        return self.model_copy(update=update)

    @property
    def worst_window_ns(self) -> int:
        """How long a node may get traffic that it cannot serve: (N + 1) × period, with N failures needed (FIG-3)."""
        return (self.unhealthy_threshold + 1) * self.interval_ns


def preset_values() -> list[dict[str, Any]]:
    """Return the presets: ``preset``, ``meaning``, ``source``, the date when that was ``read``, and by policy the values of its fields as files write them."""
    names = {name: field.alias or file_name(name) for name, field in LoadBalancerSpec.model_fields.items()}

    def spelled(name: str, value: Any) -> Any:
        return format_duration(value) if name.endswith("_ns") else value

    return [
        {
            "preset": preset.value,
            "meaning": row.meaning,
            "Cluster": {names[name]: spelled(name, value) for name, value in row.values.items()},
            "Local": {names[name]: spelled(name, value) for name, value in {**row.values, **row.local}.items()},
            "source": row.source,
            "read": PRESETS_READ,
        }
        for preset, row in PRESETS.items()
    ]
