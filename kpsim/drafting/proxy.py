"""Makes the ``proxy`` of a draft: what of a KubeProxyConfiguration differs from kube-proxy's defaults and decides something."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from kpsim.config import ProxyConfig, config_from_json
from kpsim.drafting.part import TODO, Ledger, Part
from kpsim.inputs import Json, JsonObject
from kpsim.manifests.places import Path, without

#: what the scenario says itself
_ELSEWHERE = ("apiVersion", "kind", "hostnameOverride")


def proxy_part(document: Json, config: ProxyConfig, ledger: Ledger) -> Part:
    """Return the fragment with which a scenario's kube-proxies have the configuration.

    ``document`` is as it was given; empty: there was none. ``config`` is what it came to, with a mode that was asked for.
    """
    part = Part()
    kept: JsonObject = {key: value for key, value in document.items() if key not in _ELSEWHERE}
    if kept.get("bindAddress") in ("0.0.0.0", "::"):
        del kept["bindAddress"]  # kube-proxy then takes the node's own addresses, as without it (CFG-7.1)
    if document.get("hostnameOverride"):
        ledger.leave_out("hostnameOverride: every node of a scenario has its own name")
    for path in sorted(_leaves(kept), key=len, reverse=True):
        shorter = without(kept, path)
        if config_from_json(shorter) == config_from_json(kept):
            kept = shorter
    kept = {key: value for key, value in kept.items() if value not in ({}, [], None)}
    if config.mode is not config_from_json(kept).mode:
        kept = {"mode": str(config.mode), **kept}
    if not document:
        words = f"{TODO}: no KubeProxyConfiguration was given (kubectl -n kube-system get configmap kube-proxy -o yaml): its defaults"
        ledger.guess("kube-proxy's defaults, without clusterCIDR: no KubeProxyConfiguration was given")
        part.put("clusterCIDR", "", above=words)
    elif "clusterCIDR" not in kept:
        part.put("clusterCIDR", "", beside="none, as in the cluster")
    for key, value in kept.items():
        part[key] = Part(dict(value), flow=True) if isinstance(value, Mapping) else value
    if config_from_json(part) != replace(config, hostname_override="", bind_address=str(kept.get("bindAddress") or "")):
        ledger.leave_out("settings that only flags of kube-proxy can say (CFG-2.2.2)")
    return part


def _leaves(value: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the paths of all values in objects, and of the objects themselves."""
    for key, inner in value.items():
        yield (*path, key)
        if isinstance(inner, Mapping):
            yield from _leaves(inner, (*path, key))
