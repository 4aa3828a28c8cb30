"""Draws rulesets as text: rules from the words of ``rule_words``, then changed by small mistakes.

A mistake is what a person or a program makes: an option left out, doubled, moved or negated, an odd value, a chain that
is not there, a line that is cut, a table without COMMIT.
"""

from collections.abc import Callable, Sequence

from fuzz.rule_words import (
    ADDRESSES,
    BY_FAMILY,
    CHAINS,
    HOMES,
    INTERFACES,
    MATCHES,
    ONLY,
    OWN_CHAINS,
    PROTOCOLS,
    TARGETS,
    WANTS,
    Words,
)
from kpsim.addresses import Family
from kpsim.verify.drawing.choices import Choices, chance, pick, several

#: extensions for which the kernel compares a name that exists on the machine; the fuzzer draws none of them
_ODD = 12  #: percent of values that are odd
_HEADER = ("-s", "-d", "-i", "-o")
_LONG = {
    "-s": "--source",
    "-d": "--dst",
    "-i": "--in-interface",
    "-o": "--out-interface",
    "-p": "--protocol",
    "-j": "--jump",
    "-m": "--match",
}


def draw_rule(choices: Choices, family: Family, table: str, chain: str) -> str:
    """The words of a rule after ``-A CHAIN``; about half of them have a mistake."""
    words = _right_rule(choices, family, table, chain)
    for _ in range(choices.below(3) if chance(choices, 60) else 0):
        words = pick(choices, _MISTAKES)(choices, words, family)
    return " ".join(words)


def _value(choices: Choices, words: Words) -> str:
    return pick(choices, words.odd if words.odd and chance(choices, _ODD) else words.right)


def _right_rule(choices: Choices, family: Family, table: str, chain: str) -> list[str]:
    at_home = not chance(choices, _ODD)

    def fits(name: str) -> bool:
        tables, chains = HOMES.get(name, ((), ()))
        here = (not tables or table in tables) and (not chains or chain in chains)
        return ONLY.get(name, family) is family and (here or not at_home)

    matches = [name for name in several(choices, list(MATCHES), 2) if fits(name)]
    target = pick(choices, [name for name in TARGETS if fits(name)])
    if chance(choices, 40):
        target = pick(choices, [name for name in ("ACCEPT", "DROP", "RETURN", "CH-2") if fits(name)])
    protocol = next((WANTS[name] for name in (*matches, target) if WANTS.get(name)), "")
    words: list[str] = []
    for option in several(choices, [option for option in _HEADER if fits(option)], 2):
        values = ADDRESSES[family] if option in ("-s", "-d") else INTERFACES
        words += ["!"] * chance(choices, 15) + [option, _value(choices, values)]
    if protocol or chance(choices, 20):
        words += ["-p", protocol if protocol and not chance(choices, _ODD) else _value(choices, PROTOCOLS)]
    for name in matches:
        words += ["-m", name]
        words += _options(choices, MATCHES[name], family, 2 if name != "recent" else 4)
    if target or chance(choices, 90):
        words += ["-j", target] if target else []
        words += _options(choices, TARGETS[target], family, 2)
    return words


def _options(choices: Choices, options: "dict[str, Words] | object", family: Family, most: int) -> list[str]:
    assert isinstance(options, dict)
    words: list[str] = []
    chosen = several(choices, list(options), most) or list(options)[:1]
    for option in chosen:
        value = _value(choices, BY_FAMILY.get(option, {}).get(family, options[option]))
        words += ["!"] * chance(choices, 10) + [option] + ([] if options[option].right == ("",) else [value])
    return words


# --- mistakes ---------------------------------------------------------------------------------------------------------

Mistake = Callable[[Choices, list[str], Family], list[str]]


def _left_out(choices: Choices, words: list[str], _family: Family) -> list[str]:
    if not words:
        return words
    at = choices.below(len(words))
    return words[:at] + words[at + 1 :]


def _doubled(choices: Choices, words: list[str], _family: Family) -> list[str]:
    if not words:
        return words
    at = choices.below(len(words))
    length = 1 + choices.below(2)
    return words[: at + length] + words[at : at + length] + words[at + length :]


def _moved(choices: Choices, words: list[str], _family: Family) -> list[str]:
    """Moves an option with its value to another place."""
    starts = [at for at, word in enumerate(words) if word.startswith("-")]
    if len(starts) < 2:
        return words
    at = pick(choices, starts)
    end = next((other for other in starts if other > at), len(words))
    rest = words[:at] + words[end:]
    to = choices.below(len(rest) + 1)
    return rest[:to] + words[at:end] + rest[to:]


def _negated(choices: Choices, words: list[str], _family: Family) -> list[str]:
    at = choices.below(len(words) + 1)
    return [*words[:at], "!", *words[at:]]


def _other_value(choices: Choices, words: list[str], family: Family) -> list[str]:
    """Gives an option a value of another option."""
    values = [at for at, word in enumerate(words) if at and words[at - 1].startswith("-")]
    if not values:
        return words
    at = pick(choices, values)
    all_words = [w for options in (*MATCHES.values(), *TARGETS.values()) for w in options.values()]
    drawn = pick(choices, [*all_words, ADDRESSES[family], INTERFACES, PROTOCOLS])
    return [*words[:at], pick(choices, drawn.right + drawn.odd), *words[at + 1 :]]


def _spelled(choices: Choices, words: list[str], _family: Family) -> list[str]:
    """Spells an option in another way: long, cut short, with ``=``, in capitals, joined with its value."""
    options = [at for at, word in enumerate(words) if word.startswith("-")]
    if not options:
        return words
    at = pick(choices, options)
    word = words[at]
    match choices.below(5):
        case 0:
            word = _LONG.get(word, word)
        case 1 if len(word) > 4:
            word = word[: 4 + choices.below(len(word) - 4)]
        case 2 if at + 1 < len(words):
            return [*words[:at], f"{_LONG.get(word, word)}={words[at + 1]}", *words[at + 2 :]]
        case 3:
            word = word.upper()
        case _ if at + 1 < len(words):
            return [*words[:at], f"{word}{words[at + 1]}", *words[at + 2 :]]
        case _:
            pass
    return [*words[:at], word, *words[at + 1 :]]


def _strange(choices: Choices, words: list[str], _family: Family) -> list[str]:
    at = choices.below(len(words) + 1)
    word = pick(choices, ("-f", "-4", "-6", "-c 1 2", "-c", "-t nat", "-g CH-2", "-j CH-2", "--", "-", "-v", "-n", "-w", "! -f", "-m", "x", '""', "-A", "-m tcp",
                          "-m udp", "--wait", "-x", "--line-numbers", "-h", "-M /bin/true", "-V", "-6 -s 10.0.0.1"))  # fmt: skip
    return [*words[:at], *word.split(), *words[at:]]


_MISTAKES: Sequence[Mistake] = (_left_out, _doubled, _moved, _negated, _other_value, _spelled, _strange)


# --- documents --------------------------------------------------------------------------------------------------------


def document(table: str, rules: Sequence[tuple[str, str]]) -> str:
    """A document of one table with these rules, each with its chain."""
    lines = [
        f"*{table}",
        *(f":{chain} ACCEPT [0:0]" for chain in CHAINS[table]),
        *(f":{chain} - [0:0]" for chain in OWN_CHAINS),
    ]
    return "\n".join([*lines, *(f"-A {chain} {words}".rstrip() for chain, words in rules), "COMMIT", ""])


def draw_document(choices: Choices, family: Family) -> str:
    """A document of a few lines in which lines, not rules, have mistakes."""
    lines: list[str] = []
    for table in several(choices, list(CHAINS), 2) or ["filter"]:
        rules = []
        for _ in range(choices.below(4)):
            chain = pick(choices, CHAINS[table] + OWN_CHAINS)
            target = pick(choices, ("ACCEPT", "CH-2", "DROP", "CH-1", "RETURN"))
            address = pick(choices, ADDRESSES[family].right)
            rules.append(
                (chain, pick(choices, ("", f"-s {address} ", "-p tcp ", "-m comment --comment x ")) + f"-j {target}")
            )
        lines += document(table, rules).splitlines()
    for _ in range(1 + choices.below(3)):
        lines = pick(choices, _LINE_MISTAKES)(choices, lines)
    return "\n".join(lines) + pick(choices, ("\n", "\n", "\n", "", "\r\n", "\n\n"))


LineMistake = Callable[[Choices, list[str]], list[str]]

_STRANGE_LINES = (
    "", "#", "# text", " # text", "[0:0]", "[1:2]", "[", "[0:0", "[0:0] ", "[0:0] -A INPUT", "[1:2] -A INPUT -j ACCEPT", "[a:b] -A INPUT -j ACCEPT", "COMMIT", " COMMIT", "COMMIT ",
    "commit", "COMMIT x", "*", "*filter", "*nat", "* filter", "*filter ", "*nonsense", "*FILTER", ":", ": ACCEPT", ": - [0:0]", ":INPUT", ":INPUT -", ":INPUT ACCEPT", ":INPUT DROP [0:0]",
    ":INPUT RETURN [0:0]", ":INPUT DROP [x]", ":INPUT QUEUE", ":CH-1 ACCEPT [0:0]", ":CH-3 - [0:0]", ":CH-1 - [0:0]", f":{'c' * 28} - [0:0]", f":{'c' * 29} - [0:0]", ":! - [0:0]",
    ":-x - [0:0]", ":a b - [0:0]", ":é - [0:0]", ":ACCEPT - [0:0]", ":DNAT - [0:0]", ":LOG - [0:0]", ":a! - [0:0]", ':"a b" - [0:0]', ":a+b - [0:0]", ":CH-3 - ", ":CH-3 -", ":CH-3", ":CH-3 x",
    "-A", "-A INPUT", "-A CH-1", "-A NOWHERE -j ACCEPT", "-A '' -j ACCEPT", '-A "" -j ACCEPT', "-A INPUT -j", "-A INPUT -j CH-1", "-A CH-1 -j CH-2", "-A CH-2 -j CH-1", "-A CH-1 -j CH-1", "-A CH-2 -g CH-2",
    "-I INPUT -j ACCEPT", "-I INPUT 1 -j ACCEPT", "-I INPUT 9 -j ACCEPT", "-I INPUT 0 -j ACCEPT", "-I INPUT x -j ACCEPT", "-D INPUT 1", "-D INPUT -j ACCEPT", "-R INPUT 1 -j DROP", "-N CH-3", "-N CH-1", "-N INPUT",
    "-X CH-1", "-X CH-3", "-X INPUT", "-X", "-F", "-F CH-1", "-F NOWHERE", "-P INPUT DROP", "-P INPUT RETURN", "-P CH-1 DROP", "-P NOWHERE DROP", "-E CH-1 CH-3", "-Z", "-L", "-S", "-C INPUT -j ACCEPT",
    "--append INPUT -j ACCEPT", "-A INPUT -j ACCEPT -j DROP", "-AINPUT -j ACCEPT", "-t filter -A INPUT -j ACCEPT", "-A INPUT -t filter -j ACCEPT", "  -A INPUT -j ACCEPT", "\t-A INPUT -j ACCEPT",
    "-A INPUT  -j  ACCEPT", "-A INPUT\t-j\tACCEPT", "-A INPUT -j ACCEPT # text", "-A INPUT -j ACCEPT ", "-A INPUT -j ACCEPT\r", "iptables -A INPUT -j ACCEPT", "-A INPUT -j accept", "-j ACCEPT -A INPUT",
    "-p tcp -A INPUT -j ACCEPT", "-A INPUT -A INPUT -j ACCEPT", "-A INPUT -I INPUT -j ACCEPT", "\x0b", "\ufeff", "-A FORWARD -j CH-1", "-A OUTPUT -j CH-2", "-A PREROUTING -j CH-1", "-A POSTROUTING -j CH-1",
    "-A CH-1 -j MASQUERADE", "-A CH-2 -j REJECT", "-A CH-1 -j SNAT --to-source 10.0.0.1", "-A CH-2 -j DNAT --to-destination 10.0.0.1", "-A CH-1 -i eth0", "-A CH-1 -o eth0", "-A CH-2 -m owner --uid-owner 1",
    "-A CH-1 -m rpfilter", "-A CH-1 -m physdev --physdev-is-out", "-A CH-1 -m addrtype --src-type LOCAL --limit-iface-in", "-A CH-1 -m addrtype --src-type LOCAL --limit-iface-out", "-A CH-1 -j CT --notrack",
    "-A CH-2 -m socket", "-A CH-2 -j NETMAP --to 10.0.0.0/8", "-A CH-2 -j REDIRECT", "-A CH-1 -j TCPMSS --clamp-mss-to-pmtu", "-A CH-1 -p tcp -j TCPMSS --clamp-mss-to-pmtu", "-A CH-1 -p tcp --syn -j TCPMSS --clamp-mss-to-pmtu",
)  # fmt: skip


def _line_in(choices: Choices, lines: list[str]) -> list[str]:
    at = choices.below(len(lines) + 1)
    return [*lines[:at], pick(choices, _STRANGE_LINES), *lines[at:]]


def _line_out(choices: Choices, lines: list[str]) -> list[str]:
    at = choices.below(max(len(lines), 1))
    return lines[:at] + lines[at + 1 :]


def _line_moved(choices: Choices, lines: list[str]) -> list[str]:
    if not lines:
        return lines
    rest = list(lines)
    line = rest.pop(choices.below(len(rest)))
    rest.insert(choices.below(len(rest) + 1), line)
    return rest


def _line_cut(choices: Choices, lines: list[str]) -> list[str]:
    if not lines:
        return lines
    at = choices.below(len(lines))
    return [*lines[:at], lines[at][: choices.below(len(lines[at]) + 1)], *lines[at + 1 :]]


def _line_twice(choices: Choices, lines: list[str]) -> list[str]:
    if not lines:
        return lines
    at = choices.below(len(lines))
    return [*lines[: at + 1], *lines[at:]]


_LINE_MISTAKES: Sequence[LineMistake] = (_line_in, _line_in, _line_in, _line_out, _line_moved, _line_cut, _line_twice)
