"""Where nft's chains stand: families, hooks, and the names of priorities (NFT-10.4)."""

from collections.abc import Mapping

from kpsim.ruleset import Base, Hook, Space, Verdict

SPACES: Mapping[str, Space] = {space.value: space for space in Space}
HOOKS: Mapping[str, Hook] = {hook.value.lower(): hook for hook in Hook}
POLICIES: Mapping[str, Verdict] = {"accept": Verdict.ACCEPT, "drop": Verdict.DROP}
#: the names of priorities, and the hooks where nft 1.0.6 knows them
_PRIORITIES: Mapping[str, tuple[int, frozenset[Hook]]] = {
    "raw": (-300, frozenset(Hook)),
    "mangle": (-150, frozenset(Hook)),
    "dstnat": (-100, frozenset({Hook.PREROUTING})),
    "filter": (0, frozenset(Hook)),
    "security": (50, frozenset(Hook)),
    "srcnat": (100, frozenset({Hook.POSTROUTING})),
}
#: the hooks where later versions know names, too
_LATER: Mapping[str, frozenset[Hook]] = {"dstnat": frozenset({Hook.OUTPUT}), "srcnat": frozenset({Hook.INPUT})}
DYNAMIC_SIZE = 65535  #: that nft gives a set to which rules add, if none is said (K-9.2, NFT-10.4)
_NEAR = 10  #: so far from a name nft still lists a priority by it


def priority_of(written: str | int, hook: Hook) -> int:
    """The number of a priority: a number, a name, or a name and a distance."""
    if isinstance(written, int):
        return written
    name, _, distance = written.partition(" ")
    if name not in _PRIORITIES:
        raise ValueError(f"not a priority: {name}")
    number, hooks = _PRIORITIES[name]
    if hook not in hooks | _LATER.get(name, frozenset()):
        raise ValueError(f"priority {name} is not known at hook {hook.lower()}: write {number}")
    return number + int(distance or 0)


def priority_words(base: Base) -> str:
    """How nft lists the priority of a chain."""
    for name, (number, hooks) in _PRIORITIES.items():
        distance = base.priority - number
        if base.hook in hooks and abs(distance) <= _NEAR:
            return name if not distance else f"{name} {'+' if distance > 0 else '-'} {abs(distance)}"
    return str(base.priority)
