"""``python -m fuzz [SUBJECT]``, which is what ``make fuzz`` calls: looks for what is wrong with one subject.

A subject is a module with a function ``main`` that takes the other arguments and returns the exit code: 0 if nothing
was found, 1 if something was, 2 if this machine cannot look. Each has ``--minutes``, ``--seed`` and ``--out``.
"""

import sys
from collections.abc import Mapping
from importlib import import_module

#: subject → its module; the first is the one that is meant if none is named
SUBJECTS: Mapping[str, str] = {
    "packets": "fuzz.fuzzing",  #: random clusters, probes and packet sequences, in the model and in Linux
    "diff": "fuzz.comparing",  #: random clusters and changes of them: whether diff finds what probes find
    "faults": "fuzz.fault_fuzzing",  #: random faults in runs: whether all rules are right long afterwards
    "hostile": "fuzz.hostile",  #: input of every kind, spoilt, for every command: never exit code 3
    "ipsets": "fuzz.ipset_fuzzing",  #: random ipsets and rules that look them up, in the model and in Linux
    "nft": "fuzz.nft_fuzzing",  #: random rules of nft, read by the model and by nft
    "rulesets": "fuzz.ruleset_fuzzing",  #: random rulesets, read by the model and by iptables-restore
}


def main(arguments: list[str]) -> int:
    """Runs a subject."""
    if arguments and not arguments[0].startswith("-"):
        subject, *rest = arguments
    else:
        subject, rest = next(iter(SUBJECTS)), arguments
    if subject not in SUBJECTS:
        print(f"no subject {subject!r}; there is {', '.join(SUBJECTS)}", file=sys.stderr)
        return 2
    result: int = import_module(SUBJECTS[subject]).main(rest)
    return result


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
