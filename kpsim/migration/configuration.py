"""A KubeProxyConfiguration to start with in the new mode, made from the one that runs today, each change with its reason."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kpsim.config import Mode
from kpsim.inputs import Json
from kpsim.manifests.proxy_config import API_VERSION, FIELDS, KIND
from kpsim.migration.facts import Change, Setting, Situation
from kpsim.units import parse_duration_ns

_FIRST = ("apiVersion", "kind", "mode")
_NEVER_READ = ("winkernel", "windowsRunAsService", "portRange")  #: on Linux, CFG-2.1
#: gates that kube-proxy 1.36 does not know, and whose behaviour is unconditional (CFG-3)
_GATES_THAT_ARE_GONE = ("KubeProxyDrainingTerminatingNodes", "ServiceTrafficDistribution", "TopologyAwareHints")


@dataclass(frozen=True, slots=True)
class Configuration:
    """A configuration to start with: ``document`` as a value, ``settings`` what differs from today's, and why."""

    document: Json
    settings: tuple[Setting, ...]

    @property
    def text(self) -> str:
        """The document as YAML. A comment above a field says why it is there."""
        import yaml

        reasons: dict[str, list[str]] = {}
        for setting in self.settings:
            reasons.setdefault(setting.path.partition(".")[0], []).append(setting.words)
        parts = []
        for name, value in self.document.items():
            parts += [f"# {line}\n" for words in reasons.get(name, ()) for line in _wrapped(words)]
            parts.append(yaml.safe_dump({name: value}, allow_unicode=True, sort_keys=False))
        left = [setting for setting in self.settings if setting.path.partition(".")[0] not in self.document]
        parts += [
            f"# {line}\n" for setting in left for line in _wrapped(f"{setting.path} is left out: {setting.words}")
        ]
        return "".join(parts)


def _wrapped(words: str) -> list[str]:
    import textwrap

    return textwrap.wrap(words, 98, break_long_words=False, break_on_hyphens=False)


def configuration_to_start_with(situation: Situation, target: Mode, change: Change) -> Configuration:
    """The configuration of a cluster in another mode. Values that say nothing are left out."""
    old, source = situation.cluster.document, situation.cluster.config.mode
    settings = [Setting("mode", str(target), f"Until now {source}.", "CFG-2")]
    document: dict[str, Any] = {"apiVersion": API_VERSION, "kind": KIND, "mode": str(target)}
    for name, value in old.items():
        if name not in (*_FIRST, *_NEVER_READ, *map(str, Mode)) and _says_something(value):
            document[name] = _without_old_gates(value, settings) if name == "featureGates" else _pruned(value)
    own = _options(old, target)
    for option, value in _options(old, source).items():
        if option in FIELDS[str(target)]:  # type: ignore[operator]  # a section is a mapping
            own.setdefault(option, value)
        elif option in change.dropped:
            words, see = change.dropped[option]
            settings.append(Setting(f"{source}.{option}", value, words, see))
    if own:
        document[str(target)] = own
        settings.append(
            Setting(str(target), own, f"Moved from the section {source}, which this mode does not read.", "CFG-2.3")
        )
    for setting in change.settings(situation):
        settings.append(setting)
        _set(document, setting.path.split("."), setting.value)
    return Configuration({k: v for k, v in document.items() if v != {}}, tuple(settings))


def _options(document: Json, mode: Mode) -> dict[str, Any]:
    """What a mode's section says. A period of zero says nothing (CFG-2.2.2)."""
    section = document.get(str(mode)) or {}
    return {name: value for name, value in section.items() if _says_something(value) and not _is_zero(value)}


def _is_zero(value: Any) -> bool:
    try:
        return isinstance(value, str) and parse_duration_ns(value) == 0
    except ValueError:
        return False


def _says_something(value: Any) -> bool:
    """Whether a value is more than absent: false and 0 may be meant, nothing and empty values are not."""
    if isinstance(value, Mapping):
        return any(map(_says_something, value.values()))
    return value is not None and value not in ("", [])


def _pruned(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _pruned(inner) for name, inner in value.items() if _says_something(inner)}
    return list(value) if isinstance(value, list | tuple) else value


def _without_old_gates(gates: Json, settings: list[Setting]) -> dict[str, Any]:
    for gate in _GATES_THAT_ARE_GONE:
        if gate in gates:
            words = "kube-proxy 1.36 does not know this gate any longer."
            settings.append(Setting(f"featureGates.{gate}", gates[gate], words, "CFG-3"))
    return {name: value for name, value in gates.items() if name not in _GATES_THAT_ARE_GONE}


def _set(document: dict[str, Any], steps: list[str], value: Any) -> None:
    *outer, last = steps
    for step in outer:
        document = document.setdefault(step, {})
    document[last] = value
