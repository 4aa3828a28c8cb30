"""The settings that a survey varies: policies of Services, and the proxy mode.

Counterpart: what a person tries with ``kubectl edit`` before a change. The values are those that the API server accepts (O-3.2).
A variant has one value for each varied setting; Services for which a setting says nothing keep theirs.
"""

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import product

from kpsim.config import Mode, config_from_json
from kpsim.errors import InputError
from kpsim.explore import Cluster
from kpsim.objects import Service

_POLICIES = ("Cluster", "Local")


class Setting(enum.StrEnum):
    """A setting, by its name in the API, in the order in which columns and rows have them."""

    EXTERNAL = "externalTrafficPolicy"
    INTERNAL = "internalTrafficPolicy"
    DISTRIBUTION = "trafficDistribution"
    AFFINITY = "sessionAffinity"
    MODE = "mode"

    @property
    def values(self) -> tuple[str, ...]:
        """Its values; the empty one of ``trafficDistribution`` stands for a Service without the field."""
        return _VALUES[self]

    def of(self, service: Service) -> str:
        """The value that a Service has; empty: none. Not for the mode."""
        match self:
            case Setting.EXTERNAL:
                return service.external_traffic_policy
            case Setting.INTERNAL:
                return service.internal_traffic_policy or ""
            case Setting.DISTRIBUTION:
                return service.traffic_distribution or ""
            case Setting.AFFINITY:
                return service.session_affinity
            case Setting.MODE:
                return ""

    def why_not(self, service: Service) -> str:
        """Why it cannot be varied for a Service, in words; empty: it can."""
        if self is Setting.EXTERNAL and not service.externally_accessible:
            return f"type {service.type} without externalIPs has none (O-3.1)"
        return ""


_VALUES: Mapping[Setting, tuple[str, ...]] = {
    Setting.EXTERNAL: _POLICIES,
    Setting.INTERNAL: _POLICIES,
    Setting.DISTRIBUTION: ("", "PreferClose", "PreferSameZone", "PreferSameNode"),
    Setting.AFFINITY: ("None", "ClientIP"),
    Setting.MODE: tuple(map(str, Mode)),
}
#: of Services; the last changes EndpointSlices, so what it makes of them follows all other edits
_EDITED = (Setting.EXTERNAL, Setting.INTERNAL, Setting.AFFINITY, Setting.DISTRIBUTION)

Values = Mapping[Setting, str]


def settings_of(names: Sequence[str]) -> tuple[Setting, ...]:
    """The settings with these names, in their own order. InputError, with similar names, for one that is none."""
    for name in names:
        if name not in list(Setting):
            near = get_close_matches(name, list(Setting), n=1, cutoff=0.5)
            raise InputError(
                f"{name!r} cannot be varied: there is {', '.join(Setting)}" + (f"; is {near[0]} meant?" if near else "")
            )
    return tuple(setting for setting in Setting if setting in names)


@dataclass(frozen=True, slots=True)
class Variant:
    """A cluster with one value for each varied setting."""

    values: Values
    cluster: Cluster


def variants(cluster: Cluster, services: Sequence[Service], vary: Sequence[Setting]) -> list[Variant]:
    """The cluster under every combination of values; these Services have them. Without ``vary`` it is the cluster as it is.

    InputError if a recording is to be edited: it holds what happened.
    """
    edited = [Variant({}, cluster)]
    for setting in (each for each in _EDITED if each in vary):
        edited = [
            Variant({**variant.values, setting: value}, _with(variant.cluster, services, setting, value))
            for variant in edited
            for value in setting.values
        ]
    if Setting.MODE in vary:
        edited = [
            Variant({**variant.values, Setting.MODE: mode}, _in_mode(variant.cluster, Mode(mode)))
            for variant in edited
            for mode in Setting.MODE.values
        ]
    order = {values: number for number, values in enumerate(product(*(setting.values for setting in vary)))}
    return sorted(edited, key=lambda variant: order[tuple(variant.values[setting] for setting in vary)])


def _with(cluster: Cluster, services: Sequence[Service], setting: Setting, value: str) -> Cluster:
    edits = list(_edits(cluster, services, setting, value))
    return cluster.with_edits(*edits) if edits else cluster


def _edits(cluster: Cluster, services: Sequence[Service], setting: Setting, value: str) -> Iterator[str]:
    for service in services:
        current = cluster.state.get(service.key)
        assert isinstance(current, Service)
        if setting.of(current) != value and not setting.why_not(current):
            name = f"service/{service.metadata.namespace}/{service.metadata.name}"
            yield f"{name}.spec.{setting}={value or 'null'}"


def _in_mode(cluster: Cluster, mode: Mode) -> Cluster:
    if cluster.config.mode is mode and not cluster.node_configs:
        return cluster
    changed = cluster.with_config(config_from_json(cluster.document, mode=mode))
    for node, config in cluster.node_configs.items():
        if config.mode is not mode:
            changed = changed.with_config(changed.config, node)
    return changed
