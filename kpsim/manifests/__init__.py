"""Reads Kubernetes manifests and makes a ClusterState of them, defaulted and validated as an API server does.

Counterpart: kubectl and the API server. Recordings do not come through here: an API server has completed their objects.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kpsim.manifests.changes import apply_patch, check_object, check_objects, patch_object, update_object
    from kpsim.manifests.loading import Loaded, load_manifests
    from kpsim.manifests.proxy_config import ConfigCheck, check_proxy_config
    from kpsim.manifests.reading import begins_recording, is_recording

__all__ = [
    "ConfigCheck",
    "Loaded",
    "apply_patch",
    "begins_recording",
    "check_object",
    "check_objects",
    "check_proxy_config",
    "is_recording",
    "load_manifests",
    "patch_object",
    "update_object",
]

_HOMES = {
    "changes": ("apply_patch", "check_object", "check_objects", "patch_object", "update_object"),
    "loading": ("Loaded", "load_manifests"),
    "proxy_config": ("ConfigCheck", "check_proxy_config"),
    "reading": ("begins_recording", "is_recording"),
}


def __getattr__(name: str) -> Any:
    """Import the module of a name when it is asked for: who reads a recording needs the places of values alone."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"kpsim.manifests.{home}"), name)
    raise AttributeError(f"module 'kpsim.manifests' has no attribute {name!r}")
