"""The table of proxy modes: the one place, besides the configuration, that names them.

A mode's modules are imported when its first backend is made, so a mode that is not used costs nothing.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from kpsim.backends import Backend, Traits
from kpsim.config import Mode, ProxierSettings
from kpsim.errors import InputError


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


_CLASSES: Mapping[Mode, Callable[[], _Class]] = {Mode.IPTABLES: _iptables, Mode.NFTABLES: _nftables}


def check_modelled(mode: Mode) -> None:
    """Raises InputError if the mode is not modelled yet. The message names the modes that are."""
    if mode not in _CLASSES:
        *others, last = _CLASSES
        modelled = f"{', '.join(others)} and {last} are" if others else f"{last} is"
        raise InputError(f"mode {mode}: not modelled yet, only {modelled}")


def traits_of(mode: Mode) -> Traits | None:
    """How a mode differs from others; None: it is not modelled."""
    return _CLASSES[mode]().traits if mode in _CLASSES else None


def make_backend(settings: ProxierSettings) -> Backend:
    """A new backend of the configured mode, for a process that has written nothing yet.

    InputError if the mode is not modelled.
    """
    check_modelled(settings.config.mode)
    return _CLASSES[settings.config.mode]()(settings)
