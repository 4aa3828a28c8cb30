"""How many bytes an EndpointSlice or Endpoints object takes: in etcd, and on a watch.

Both are protobuf. The API server stores built-in kinds in it (``--storage-media-type``), and kube-proxy and kube-controller-manager ask
for it (``clientConnection.contentType``). The sizes are those of the generated encoders: a text that is not optional takes two bytes even
if it is empty. What HTTP/2 and TLS add is not counted.

The run's own UIDs are names. An API server gives every object a UUID, so each UID counts 36 bytes. It also keeps a record of who wrote
which fields (``managedFields``); one writer is counted.
"""

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache, singledispatch

from kpsim.inputs import Json
from kpsim.objects import EndpointAddress, Endpoints, EndpointSlice, SliceEndpoint, SlicePort, TargetRef

ETCD_REQUEST_LIMIT = 1536 * 1024  #: ``--max-request-bytes`` of etcd

_UID = 36
_MAGIC = 4  #: ``k8s`` and a zero byte before each stored object
_MANAGER = "kube-controller-manager"
_TIME = 8  #: seconds since 1970 and a zero fraction, each with its tag


def stored_bytes(obj: EndpointSlice | Endpoints) -> int:
    """Return how long the value is that etcd keeps of the object. It holds no resourceVersion: etcd has its own."""
    return _enveloped(obj, _body(obj) - len(_meta(obj).get("resourceVersion") or ""))


def request_bytes(obj: EndpointSlice | Endpoints) -> int:
    """Return how long the request is that writes the object to etcd: the value, its key in three places, and what holds them."""
    plural = "services/endpoints" if isinstance(obj, Endpoints) else "endpointslices"
    key = f"/registry/{plural}/{obj.metadata.namespace}/{obj.metadata.name}"
    return stored_bytes(obj) + 3 * _text(key) + 60


def watch_bytes(obj: EndpointSlice | Endpoints, event: str) -> int:
    """Return how long a watch event of the object is: a length of four bytes, the event's type, and the object.

    ``event`` is ``ADDED``, ``MODIFIED`` or ``DELETED``; a deletion carries the last version in full.
    """
    return 4 + _text(event) + _message(_message(_enveloped(obj, _body(obj))))


def _enveloped(obj: EndpointSlice | Endpoints, body: int) -> int:
    version = "v1" if isinstance(obj, Endpoints) else "discovery.k8s.io/v1"
    kind = _text(version) + _text(obj.key.kind)
    return _MAGIC + _message(kind) + _message(body) + _text("") + _text("")


def _meta(obj: EndpointSlice | Endpoints) -> Json:
    meta: Json = obj.json.get("metadata") or {}
    return meta


# ------------------------------------------------------------------------------------------------------------- encodings


def _varint(value: int) -> int:
    """Return how many bytes a number takes: seven bits each."""
    return max(1, -(-value.bit_length() // 7))


def _message(size: int) -> int:
    """Return how many bytes a part of this size takes with its tag and length. All tags here take one byte."""
    return 1 + _varint(size) + size


def _text(text: str) -> int:
    return _message(len(text) if text.isascii() else len(text.encode()))


def _optional(text: str | None) -> int:
    return 0 if text is None else _text(text)


def _flags(*values: bool | None) -> int:
    return 2 * sum(value is not None for value in values)


def _pairs(items: Mapping[str, str] | None) -> int:
    return sum(_message(_text(key) + _text(value)) for key, value in (items or {}).items())


# ---------------------------------------------------------------------------------------------------------------- objects


@singledispatch
def _body(obj: object) -> int:
    raise TypeError(f"no size of {type(obj).__name__} is known")


@_body.register
def _(obj: EndpointSlice) -> int:
    return (
        _message(_metadata(_meta(obj), ("addressType", "endpoints", "ports")))
        + _text(obj.address_type)
        + sum(_message(_endpoint(endpoint)) for endpoint in obj.endpoints)
        + sum(_message(_slice_port(port)) for port in obj.ports)
    )


@_body.register
def _(obj: Endpoints) -> int:
    size = _message(_metadata(_meta(obj), ("subsets",)))
    for subset in obj.subsets:
        addresses = (*subset.addresses, *subset.not_ready)
        inner = sum(_message(_address(address)) for address in addresses)
        size += _message(inner + sum(_message(_endpoints_port(port)) for port in subset.ports))
    return size


def _endpoint(endpoint: SliceEndpoint) -> int:
    size = sum(map(_text, endpoint.addresses))
    size += _message(_flags(endpoint.ready, endpoint.serving, endpoint.terminating))
    size += _optional(endpoint.hostname) + _optional(endpoint.node_name) + _optional(endpoint.zone)
    size += _target(endpoint.target_ref)
    if endpoint.zone_hints or endpoint.node_hints:
        size += _message(_hints(endpoint.zone_hints) + _hints(endpoint.node_hints))
    return size


def _hints(names: Iterable[str]) -> int:
    return sum(_message(_text(name)) for name in names)


@lru_cache(maxsize=1 << 16)  # an object of thousands of addresses is sent for each of them that changes
def _address(address: EndpointAddress) -> int:
    return _text(address.ip) + _target(address.target_ref) + _text(address.hostname) + _optional(address.node_name)


def _target(target: TargetRef | None) -> int:
    """Return the size of an object reference: kind, namespace, name, uid, and three texts that are empty."""
    if target is None:
        return 0
    uid = _UID if target.kind == "Pod" or target.uid else 0
    return _message(_text(target.kind) + _text(target.namespace) + _text(target.name) + _message(uid) + 3 * _text(""))


def _slice_port(port: SlicePort) -> int:
    number = 0 if port.port is None else 1 + _varint(port.port)
    return _optional(port.name) + _text(port.protocol) + number + _optional(port.app_protocol)


def _endpoints_port(port: SlicePort) -> int:
    return _text(port.name or "") + 1 + _varint(port.port or 0) + _text(port.protocol) + _optional(port.app_protocol)


def _metadata(meta: Json, fields: tuple[str, ...]) -> int:
    texts = sum(
        _text(meta.get(name) or "") for name in ("name", "generateName", "namespace", "selfLink", "resourceVersion")
    )
    size = texts + _message(_UID) + 1 + _varint(int(meta.get("generation") or 0)) + _message(_TIME)
    size += _pairs(meta.get("labels")) + _pairs(meta.get("annotations"))
    for owner in meta.get("ownerReferences") or ():
        texts = sum(_text(owner.get(name) or "") for name in ("kind", "name", "apiVersion"))
        size += _message(texts + _message(_UID) + _flags(owner.get("controller"), owner.get("blockOwnerDeletion")))
    return size + _message(_managed(meta, fields))


def _managed(meta: Json, fields: tuple[str, ...]) -> int:
    """Return the size of one entry of managedFields: the writer, its operation, and the names of the fields as JSON."""
    own: dict[str, object] = {f"f:{name}": {} for name in fields}
    inner: dict[str, object] = {}
    for name in ("annotations", "labels"):
        if meta.get(name):
            inner[f"f:{name}"] = {".": {}, **{f"f:{key}": {} for key in meta[name]}}
    if meta.get("generateName"):
        inner["f:generateName"] = {}
    if meta.get("ownerReferences"):
        inner["f:ownerReferences"] = {".": {}, **{f'k:{{"uid":"{"0" * _UID}"}}': {} for _ in meta["ownerReferences"]}}
    text = json.dumps({**own, "f:metadata": inner}, separators=(",", ":"))
    version = "v1" if fields == ("subsets",) else "discovery.k8s.io/v1"
    return (
        _text(_MANAGER) + _text("Update") + _text(version) + _message(_TIME)
        + _text("FieldsV1") + _message(_text(text)) + _text("")
    )  # fmt: skip
