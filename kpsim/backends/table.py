"""The table of proxy modes: the one place, besides the configuration, that names them.

A mode's modules are imported when its first backend is made, so a mode that is not used costs nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from kpsim.backends import Backend, Traits
from kpsim.config import Mode, ProxierSettings
from kpsim.objects import Service


class _Class(Protocol):
    """The class of a mode's backends."""

    @property
    def traits(self) -> Traits: ...

    def __call__(self, settings: ProxierSettings) -> Backend: ...


def _iptables() -> _Class:
    from kpsim.backends.iptables import IptablesBackend

    return IptablesBackend


def _nftables() -> _Class:
    from kpsim.backends.nftables import NftablesBackend

    return NftablesBackend


def _ipvs() -> _Class:
    from kpsim.backends.ipvs import IpvsBackend

    return IpvsBackend


_CLASSES: Mapping[Mode, Callable[[], _Class]] = {Mode.IPTABLES: _iptables, Mode.NFTABLES: _nftables, Mode.IPVS: _ipvs}


def traits_of(mode: Mode) -> Traits:
    """How a mode differs from others."""
    return _CLASSES[mode]().traits


def notes_on(mode: Mode, services: Iterable[Service]) -> Iterator[str]:
    """What a mode does with the packets of these Services that is not modelled, a note for each port."""
    unmodelled = traits_of(mode).unmodelled_ports
    for service in services:
        for port in service.ports:
            if what := unmodelled.get((port.protocol.lower(), port.port)):
                name = f"{service.metadata.namespace}/{service.metadata.name}"
                yield f"{name}, port {port.port}/{port.protocol}: {what}"


def make_backend(settings: ProxierSettings) -> Backend:
    """A new backend of the configured mode, for a process that has written nothing yet.

    InputError if kube-proxy would not start with these settings.
    """
    return _CLASSES[settings.config.mode]()(settings)
