"""Writes EndpointSlices as the objects that reach the API server: metadata, names, JSON (CP-3.10)."""

from collections.abc import Mapping
from typing import Any

from kpsim import rng
from kpsim.endpointslices.packing import LABEL_MANAGED_BY, SliceDraft, copied_labels
from kpsim.inputs import Json
from kpsim.objects import (
    ANNOTATION_TRIGGER_TIME,
    CLUSTER_IP_NONE,
    LABEL_HEADLESS,
    LABEL_SERVICE_NAME,
    Endpoints,
    EndpointSlice,
    ObjectKey,
    Service,
    SliceEndpoint,
    SlicePort,
    endpoint_slice_from_json,
)
from kpsim.units import format_rfc3339

CONTROLLER_NAME = "endpointslice-controller.k8s.io"

_NAME_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # the API server's characters for generated names
_NAME_SUFFIX_LENGTH = 5
_NAME_MAX_LENGTH = 63


def is_managed(item: EndpointSlice) -> bool:
    """Return whether the slice says that the EndpointSlice controller writes it."""
    return item.metadata.labels.get(LABEL_MANAGED_BY) == CONTROLLER_NAME


def slice_labels(service: Service) -> dict[str, str]:
    """Return the labels of the Service's slices (CP-3.10, O-10.6).

    The Service's own values of reserved keys are dropped.
    """
    labels = copied_labels(service.metadata.labels)
    labels[LABEL_SERVICE_NAME] = service.metadata.name
    labels[LABEL_MANAGED_BY] = CONTROLLER_NAME
    if service.cluster_ip in ("", CLUSTER_IP_NONE):
        labels[LABEL_HEADLESS] = ""
    return labels


def generated_name(owner: ObjectKey, taken: set[str], seed: int) -> str:
    """Return ``<owner>-<5 characters>`` as the API server makes it from generateName. A taken name is drawn again."""
    prefix = f"{owner.name}-"[: _NAME_MAX_LENGTH - _NAME_SUFFIX_LENGTH]
    kind = "EndpointSlice" if owner.kind == "Service" else f"EndpointSlice of {owner.kind}"
    attempt = 0
    while True:
        key = (kind, owner.namespace, owner.name, attempt)
        letters = (rng.below(len(_NAME_ALPHABET), seed, *key, place) for place in range(_NAME_SUFFIX_LENGTH))
        name = prefix + "".join(_NAME_ALPHABET[letter] for letter in letters)
        if name not in taken:
            taken.add(name)
            return name
        attempt += 1


def new_metadata(owner: Service | Endpoints, name: str) -> dict[str, Any]:
    meta = owner.metadata
    reference = {
        "apiVersion": "v1",
        "kind": owner.key.kind,
        "name": meta.name,
        "uid": meta.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {"name": name, "generateName": f"{meta.name}-", "namespace": meta.namespace, "ownerReferences": [reference]}


def render(
    draft: SliceDraft, metadata: Mapping[str, Any], service: Service, address_type: str, trigger_time_ns: int | None
) -> EndpointSlice:
    """Return the whole slice. The trigger-time annotation is set, or removed if there is no time (CP-3.7.2)."""
    meta = {key: value for key, value in metadata.items() if key != "annotations"}
    annotations = dict(metadata.get("annotations") or {})
    annotations.pop(ANNOTATION_TRIGGER_TIME, None)
    if trigger_time_ns is not None:
        annotations[ANNOTATION_TRIGGER_TIME] = format_rfc3339(trigger_time_ns)
    if annotations:
        meta["annotations"] = annotations
    # The generation grows with every write that changes more than annotations (CP-3.6.3). All writes here do.
    meta["generation"] = (draft.existing.metadata.generation if draft.existing else 0) + 1
    return endpoint_slice_from_json(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**meta, "labels": dict(slice_labels(service) if draft.labels is None else draft.labels)},
            "addressType": address_type,
            "endpoints": [endpoint_json(endpoint) for endpoint in draft.endpoints],
            "ports": [port_json(port) for port in draft.ports],
        }
    )


def endpoint_json(endpoint: SliceEndpoint) -> Json:
    """Return the endpoint as it stands in a slice."""
    conditions = {"ready": endpoint.ready, "serving": endpoint.serving, "terminating": endpoint.terminating}
    target = endpoint.target_ref
    hints = {
        "forZones": [{"name": name} for name in sorted(endpoint.zone_hints)],
        "forNodes": [{"name": name} for name in sorted(endpoint.node_hints)],
    }
    fields: dict[str, Any] = {
        "addresses": list(endpoint.addresses),
        "conditions": _without_none(conditions),
        "hostname": endpoint.hostname,
        "targetRef": {key: value for key, value in target._asdict().items() if value} if target else None,
        "nodeName": endpoint.node_name,
        "zone": endpoint.zone,
        "hints": {key: value for key, value in hints.items() if value} or None,
    }
    return _without_none(fields)


def port_json(port: SlicePort) -> Json:
    """Return the port as it stands in a slice or in an Endpoints object."""
    return _without_none(
        {"name": port.name, "protocol": port.protocol, "port": port.port, "appProtocol": port.app_protocol}
    )


def _without_none(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}
