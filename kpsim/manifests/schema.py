"""The shape of the API objects that are read: their fields, types and ranges (O-3.2), checked by pydantic.

Counterpart: the OpenAPI schema that kubectl and the API server validate with. Fields that decide no packet are listed
by name, so that misspelt names are found, but may hold anything. ``validation`` checks how fields depend on each other.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, Required, get_args, get_origin

from typing_extensions import TypedDict  # pydantic cannot use typing's before Python 3.12

from kpsim.manifests.fitting import Bounds, fits
from kpsim.manifests.places import Path
from kpsim.manifests.wording import hint, or_list, shown, suggestion

if TYPE_CHECKING:
    from pydantic import TypeAdapter


def _object(name: str, fields: Mapping[str, Any], ignored: str = "") -> Any:
    """Make an API type.

    ``fields`` are checked, and null means absent. ``ignored`` lists fields that decide no packet.
    """
    hints: dict[str, Any] = {key: hint if get_origin(hint) is Required else hint | None for key, hint in fields.items()}
    hints |= dict.fromkeys(ignored.split(), Any)
    return _strict(TypedDict(name, hints, total=False))  # type: ignore[operator]


def _strict(made: Any) -> Any:
    made.__pydantic_config__ = {"strict": True, "extra": "forbid"}
    return made


def _list(element: Any, most: int | None = None, *, least: int = 0) -> Any:
    return Annotated[list[element], Bounds(least, most)]


Port = Annotated[int, Bounds(1, 65535)]
OptionalPort = Annotated[int, Bounds(0, 65535)]
Labels = dict[str, str]
Family = Literal["IPv4", "IPv6"]
Protocol = Literal["TCP", "UDP", "SCTP", ""]

METADATA = _object(
    "ObjectMeta",
    {
        "name": str,
        "generateName": str,
        "namespace": str,
        "uid": str,
        "resourceVersion": str,
        "labels": Labels,
        "annotations": Labels,
        "creationTimestamp": str,
        "deletionTimestamp": str,
    },
    ignored="selfLink generation deletionGracePeriodSeconds ownerReferences finalizers managedFields clusterName",
)


def _kind(name: str, fields: Mapping[str, Any], ignored: str = "") -> Any:
    return _object(name, {"apiVersion": str, "kind": str, "metadata": Required[METADATA], **fields}, ignored=ignored)


SERVICE = _kind(
    "Service",
    {
        "spec": Required[
            _object(
                "ServiceSpec",
                {
                    "type": Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalName", ""],
                    "clusterIP": str,
                    "clusterIPs": list[str],
                    "ipFamilies": list[Family],
                    "ipFamilyPolicy": Literal["SingleStack", "PreferDualStack", "RequireDualStack"],
                    "ports": _list(
                        _object(
                            "ServicePort",
                            {
                                "name": str,
                                "protocol": Protocol,
                                "port": Required[Port],
                                "nodePort": OptionalPort,
                                "targetPort": Any,  # a number or a name, see validation.py
                                "appProtocol": str,
                            },
                        )
                    ),
                    "selector": Labels,
                    "externalIPs": list[str],
                    "sessionAffinity": Literal["None", "ClientIP", ""],
                    "sessionAffinityConfig": _object(
                        "SessionAffinityConfig",
                        {"clientIP": _object("ClientIPConfig", {"timeoutSeconds": Annotated[int, Bounds(1, 86400)]})},
                    ),
                    "externalTrafficPolicy": Literal["Cluster", "Local", ""],
                    "internalTrafficPolicy": Literal["Cluster", "Local"],
                    "healthCheckNodePort": OptionalPort,
                    "loadBalancerSourceRanges": list[str],
                    "loadBalancerIP": str,
                    "loadBalancerClass": str,
                    "allocateLoadBalancerNodePorts": bool,
                    "publishNotReadyAddresses": bool,
                    "trafficDistribution": Literal["PreferClose", "PreferSameZone", "PreferSameNode"],
                    "externalName": str,
                },
            )
        ],
        "status": _object(
            "ServiceStatus",
            {
                "loadBalancer": _object(
                    "LoadBalancerStatus",
                    {
                        "ingress": _list(
                            _object(
                                "LoadBalancerIngress",
                                {"ip": str, "ipMode": Literal["VIP", "Proxy"]},
                                ignored="hostname ports",
                            )
                        )
                    },
                )
            },
            ignored="conditions",
        ),
    },
)

_HINT = _object("Hint", {"name": Required[str]})

ENDPOINT_SLICE = _kind(
    "EndpointSlice",
    {
        "addressType": Required[Literal["IPv4", "IPv6", "FQDN"]],
        "endpoints": _list(
            _object(
                "Endpoint",
                {
                    "addresses": Required[_list(str, 100, least=1)],
                    "conditions": _object("EndpointConditions", {"ready": bool, "serving": bool, "terminating": bool}),
                    "hostname": str,
                    "nodeName": str,
                    "zone": str,
                    "hints": _object(
                        "EndpointHints",
                        {
                            "forZones": _list(_HINT, 8),
                            "forNodes": _list(_HINT, 8),
                        },
                    ),
                },
                ignored="targetRef deprecatedTopology",
            ),
            1000,
        ),
        "ports": _list(_object("EndpointPort", {"name": str, "protocol": Protocol, "port": Port, "appProtocol": str})),
    },
)

ENDPOINTS = _kind(
    "Endpoints",
    {
        "subsets": _list(
            _object(
                "EndpointSubset",
                {
                    group: _list(
                        _object("EndpointAddress", {"ip": Required[str], "nodeName": str}, ignored="hostname targetRef")
                    )
                    for group in ("addresses", "notReadyAddresses")
                }
                | {
                    "ports": _list(
                        _object(
                            "EndpointPort",
                            {"name": str, "protocol": Protocol, "port": Required[Port], "appProtocol": str},
                        )
                    )
                },
            )
        )
    },
)

NODE = _kind(
    "Node",
    {
        "spec": _object(
            "NodeSpec",
            {"podCIDR": str, "podCIDRs": list[str]},
            ignored="providerID unschedulable taints configSource externalID",
        ),
        "status": _object(
            "NodeStatus",
            {
                "addresses": _list(
                    _object(
                        "NodeAddress",
                        {
                            "type": Required[
                                Literal["Hostname", "InternalIP", "ExternalIP", "InternalDNS", "ExternalDNS"]
                            ],
                            "address": Required[str],
                        },
                    )
                )
            },
            ignored="capacity allocatable phase conditions daemonEndpoints nodeInfo images volumesInUse "
            "volumesAttached config runtimeHandlers features declaredFeatures",
        ),
    },
)

_CONTAINERS = _list(
    _object(
        "Container",
        {
            "name": str,
            "restartPolicy": str,
            "ports": _list(
                _object(
                    "ContainerPort",
                    {"name": str, "containerPort": Required[Port], "protocol": Protocol, "hostPort": OptionalPort},
                    ignored="hostIP",
                )
            ),
        },
        ignored="image command args workingDir envFrom env resources resizePolicy restartPolicyRules volumeMounts "
        "volumeDevices livenessProbe readinessProbe startupProbe lifecycle terminationMessagePath "
        "terminationMessagePolicy imagePullPolicy securityContext stdin stdinOnce tty",
    )
)

POD = _kind(
    "Pod",
    {
        "spec": Required[
            _object(
                "PodSpec",
                {
                    "nodeName": str,
                    "hostNetwork": bool,
                    "hostname": str,
                    "subdomain": str,
                    "containers": _CONTAINERS,
                    "initContainers": _CONTAINERS,
                },
                ignored="volumes ephemeralContainers restartPolicy terminationGracePeriodSeconds activeDeadlineSeconds "
                "dnsPolicy nodeSelector serviceAccountName serviceAccount automountServiceAccountToken hostPID hostIPC "
                "shareProcessNamespace securityContext imagePullSecrets affinity schedulerName tolerations hostAliases "
                "priorityClassName priority dnsConfig readinessGates runtimeClassName enableServiceLinks "
                "preemptionPolicy overhead topologySpreadConstraints setHostnameAsFQDN os hostUsers schedulingGates "
                "resourceClaims resources hostnameOverride workloadRef schedulingGroup",
            )
        ],
        "status": _object(
            "PodStatus",
            {
                "phase": Literal["Pending", "Running", "Succeeded", "Failed", "Unknown", ""],
                "podIP": str,
                "podIPs": _list(_object("PodIP", {"ip": Required[str]})),
                "conditions": _list(
                    _object(
                        "PodCondition",
                        {"type": Required[str], "status": Required[Literal["True", "False", "Unknown"]]},
                        ignored="lastProbeTime lastTransitionTime reason message observedGeneration",
                    )
                ),
            },
            ignored="observedGeneration message reason nominatedNodeName hostIP hostIPs startTime initContainerStatuses "
            "containerStatuses qosClass ephemeralContainerStatuses resize resourceClaimStatuses "
            "extendedResourceClaimStatus allocatedResources resources nodeAllocatableResourceClaimStatuses",
        ),
    },
)

SERVICE_CIDR = _kind(
    "ServiceCIDR",
    {"spec": Required[_object("ServiceCIDRSpec", {"cidrs": Required[list[str]]})]},
    ignored="status",
)

SCHEMAS: Mapping[str, Any] = {
    "Service": SERVICE,
    "EndpointSlice": ENDPOINT_SLICE,
    "Endpoints": ENDPOINTS,
    "Node": NODE,
    "Pod": POD,
    "ServiceCIDR": SERVICE_CIDR,
}


@cache
def _adapter(kind: str) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter

    return TypeAdapter(_list(SCHEMAS[kind]))


def check_shapes(kind: str, objects: Sequence[Any]) -> list[tuple[int, Path, str, bool]]:
    """Return all errors of shape: index of the object, path in it, message, and whether it is only an unknown field."""
    if all(map(fits(SCHEMAS[kind]), objects)):
        return []
    from pydantic import ValidationError

    try:
        _adapter(kind).validate_python(objects)
    except ValidationError as error:
        return [
            (int(loc[0]), path, _message(kind, loc[1:], item), item["type"] == "extra_forbidden")
            for item in error.errors(include_url=False)
            for loc in (item["loc"],)
            for path in (tuple(step for step in loc[1:] if step != "[key]"),)
        ]
    return []


def checked_texts(kind: str, obj: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """Yield the path and value of every text in an object of right shape, in fields that are checked."""
    yield from _texts(_inner(SCHEMAS[kind]), obj, ())


def _texts(type_: Any, value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(type_, item, (*path, index))
    elif isinstance(value, Mapping):
        fields = getattr(type_, "__annotations__", None)
        for name, item in value.items():
            if fields is None:
                yield from _texts(None, item, (*path, name))
            elif fields.get(name, Any) is not Any:
                yield from _texts(_inner(fields[name]), item, (*path, name))


_EXPECTED = {
    "string_type": "a string",
    "int_type": "an integer",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
}


def _message(kind: str, path: Path, error: Any) -> str:
    value, context = error["input"], error.get("ctx", {})
    match error["type"]:
        case "missing":
            return "is required"
        case "extra_forbidden":
            known = sorted(_fields_at(SCHEMAS[kind], path[:-1]))
            return f"there is no such field{suggestion(str(path[-1]), known)}"
        case "literal_error":
            choices = [str(choice) for choice in _literals_at(SCHEMAS[kind], path) if choice]
            return f"expected {or_list(choices)}, got {shown(value)}{suggestion(str(value), choices)}"
        case "greater_than_equal":
            return f"expected at least {context['ge']}, got {shown(value)}"
        case "less_than_equal":
            return f"expected at most {context['le']}, got {shown(value)}"
        case "too_short":
            return f"expected at least {context['min_length']} entry"
        case "too_long":
            return f"expected at most {context['max_length']} entries, got {len(value)}"
        case other:
            expected = _EXPECTED.get(other)
            return f"expected {expected}, got {shown(value)}{hint(value)}" if expected else str(error["msg"])


def _inner(hint_: Any) -> Any:
    """Strip lists, Required, Annotated and None from a hint, down to a TypedDict or Literal."""
    while True:
        arguments = [argument for argument in get_args(hint_) if argument is not type(None)]
        if get_origin(hint_) is Literal or not arguments or get_origin(hint_) is dict:
            return hint_
        hint_ = arguments[0]


def _type_at(schema: Any, path: Path) -> Any:
    current = schema
    for step in path:
        if isinstance(step, str):
            current = getattr(_inner(current), "__annotations__", {}).get(step)
    return _inner(current)


def _fields_at(schema: Any, path: Path) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = getattr(_type_at(schema, path), "__annotations__", {})
    return fields


def _literals_at(schema: Any, path: Path) -> tuple[Any, ...]:
    return get_args(_type_at(schema, path))
