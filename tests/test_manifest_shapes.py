"""What plainly fits its schema is right by pydantic, too; and what every cluster has plainly fits."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mixed_clusters import mixed

from kpsim.inputs import json_object
from kpsim.manifests.ambiguous import AmbiguousNumber
from kpsim.manifests.fitting import fits
from kpsim.manifests.schema import SCHEMAS, _adapter, check_shapes

OBJECTS = [each for each in json_object(mixed(3, 6, dual=True))["items"] if each["kind"] in SCHEMAS] + [
    {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web-0", "namespace": "shop", "labels": {"app": "web"}, "annotations": None},
        "spec": {
            "nodeName": "node-1", "hostNetwork": False, "tolerations": [{"anything": 1}],
            "containers": [{"name": "c", "ports": [{"containerPort": 8080, "protocol": "TCP", "hostPort": 0}], "image": "web"}],
        },
        "status": {"phase": "Running", "podIPs": [{"ip": "10.180.1.5"}], "conditions": [{"type": "Ready", "status": "True"}]},
    },
    {"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "k"}, "spec": {"cidrs": ["172.30.0.0/16"]}},
    {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "w"}, "subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 1}]}]},
]  # fmt: skip

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, 65535, 65536, -1, 86400, 86401, 1.0, "", "TCP", "tcp", "IPv4", "ClusterIP", "Local", "é", "\ud800", b"x", (), [], {},
    [None], [1], ["a"], ["IPv6"], [[]], [{}], {"a": 1}, {"a": "b"}, {"\ud800": "a"}, {1: "a"}, {"name": "n"}, {"port": 80}, ["a"] * 101,
    AmbiguousNumber("080"),
)  # fmt: skip


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container and key in an object."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


@pytest.mark.parametrize("obj", OBJECTS, ids=lambda obj: f"{obj['kind']} {obj['metadata']['name']}")
def test_objects_of_clusters_fit(obj: Any) -> None:
    assert fits(SCHEMAS[obj["kind"]])(obj)
    assert check_shapes(obj["kind"], [obj]) == []


@settings(deadline=None, max_examples=700)
@given(obj=st.sampled_from(OBJECTS), data=st.data())
def test_what_fits_is_right_by_pydantic(obj: Any, data: st.DataObject) -> None:
    """One change anywhere: another value, a field that is gone, or one of another name."""
    changed = copy.deepcopy(obj)
    container, key = data.draw(st.sampled_from(places(changed)))
    change = data.draw(st.sampled_from(("value", "gone", "name")))
    if change == "value":
        container[key] = copy.deepcopy(data.draw(st.sampled_from(VALUES)))
    elif change == "gone":
        del container[key]
    elif isinstance(container, dict):
        container[data.draw(st.sampled_from(("x", "name", "nodePort", "hints", "ip")))] = container.pop(key)
    kind = obj["kind"]
    plain = fits(SCHEMAS[kind])(changed)
    try:
        _adapter(kind).validate_python([changed])
    except ValueError:
        assert not plain
    else:
        assert plain  # so pydantic is asked only about what is wrong
