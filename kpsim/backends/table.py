"""The table of proxy modes: the one place, besides the configuration, that names them.

A mode's modules are imported when its first backend is made, so a mode that is not used costs nothing.
"""

from collections.abc import Callable, Mapping

from kpsim.backends import Backend
from kpsim.config import Mode, ProxierSettings
from kpsim.errors import InputError


def _iptables(settings: ProxierSettings) -> Backend:
    from kpsim.backends.iptables import IptablesBackend

    return IptablesBackend(settings)


def _nftables(settings: ProxierSettings) -> Backend:
    from kpsim.backends.nftables import NftablesBackend

    return NftablesBackend(settings)


_FACTORIES: Mapping[Mode, Callable[[ProxierSettings], Backend]] = {Mode.IPTABLES: _iptables, Mode.NFTABLES: _nftables}


def check_modelled(mode: Mode) -> None:
    """Raises InputError if the mode is not modelled yet. The message names the modes that are."""
    if mode not in _FACTORIES:
        *others, last = _FACTORIES
        modelled = f"{', '.join(others)} and {last} are" if others else f"{last} is"
        raise InputError(f"mode {mode}: not modelled yet, only {modelled}")


def make_backend(settings: ProxierSettings) -> Backend:
    """A new backend of the configured mode, for a process that has written nothing yet.

    InputError if the mode is not modelled.
    """
    check_modelled(settings.config.mode)
    return _FACTORIES[settings.config.mode](settings)
