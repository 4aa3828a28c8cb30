"""Reads the words of one iptables rule into a :class:`~kpsim.ruleset.Rule`.

Counterpart: the option parser of iptables and iptables-restore. Malformed words are a ValueError, and words that kpsim
does not model are a NotModelled. The caller adds file and line.
"""

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import product

from kpsim.addresses import Family
from kpsim.dialects.iptables.options import (
    ALIASES,
    EXTENSION_BY_NAME,
    FOREIGN_MATCHES,
    FOREIGN_TARGETS,
    GOTO,
    HARMLESS_TARGET,
    HARMLESS_TARGETS,
    IMPLIED_MODULE,
    JOINING,
    MODULE_PROTOCOLS,
    OPTION_BY_NAME,
    OPTION_MODULES,
    PORT_MODULE_ROWS,
    PORT_MODULES,
    REFUSED_OPTIONS,
    ROWS,
    SINGLE,
    UNKNOWN,
    UNKNOWN_TARGET,
    VERDICT,
    Extension,
    Option,
    Place,
)
from kpsim.dialects.iptables.sets import Ipsets
from kpsim.dialects.iptables.spelling import Written, assemble
from kpsim.dialects.iptables.values import NotModelled, decimal, quoted
from kpsim.ruleset import (
    Adjust,
    Compare,
    Field,
    Goto,
    Jump,
    Rule,
    Terminal,
    Unknown,
    Unmodelled,
    Verdict,
    moves_nothing,
)

_WORD = re.compile(r"[^ \t]+")
_QUOTED_WORD = re.compile(r'[^ \t"]*"(?:[^"\\]|\\.)*"|[^ \t"]+|"')
_ESCAPED = re.compile(r"\\(.)")
_MANY_ADDRESSES = frozenset(("-s", "-d"))  #: options that may name several addresses
#: the address types that ``--limit-iface-in`` and ``--limit-iface-out`` make of others
_LIMITED: Mapping[tuple[str, Field], Field] = {
    ("--limit-iface-in", Field.SADDR_TYPE): Field.SADDR_TYPE_IN,
    ("--limit-iface-in", Field.DADDR_TYPE): Field.DADDR_TYPE_IN,
    ("--limit-iface-out", Field.SADDR_TYPE): Field.SADDR_TYPE_OUT,
    ("--limit-iface-out", Field.DADDR_TYPE): Field.DADDR_TYPE_OUT,
}
_MOST_ADDRESSES = 256
#: how names of matches and of targets are spelt
_EXTENSION_MATCH = re.compile(r"[a-z][a-z0-9_]+")
_EXTENSION_TARGET = re.compile(r"[A-Z][A-Z0-9]+")
_VERDICTS = {verdict.value: Terminal(verdict) for verdict in Verdict}


def split_words(line: str) -> list[str]:
    r"""The words of a line as iptables-restore sees them. ValueError if a quote is not closed.

    In double quotes, blanks belong to the word and ``\`` escapes the next character. A closing quote ends the word.
    """
    if '"' not in line:
        return _WORD.findall(line)
    words = _QUOTED_WORD.findall(line)
    for i, word in enumerate(words):
        if word[-1] == '"':
            head, _, inside = word.partition('"')
            if not inside:
                raise ValueError("a quote is not closed")
            inside = inside[:-1]
            words[i] = head + (_ESCAPED.sub(r"\1", inside) if "\\" in inside else inside)
    return words


class OfOtherFamily(ValueError):
    """A rule is marked ``-4`` or ``-6`` and the document is the other family's, whose tool passes it over (K-20.8)."""


@dataclass(slots=True)
class _Group:
    """The options of one extension, collected until the rule ends."""

    extension: Extension
    index: int  #: place of the expression among the written pieces; -1: it is the target
    arguments: dict[str, tuple[str, bool]] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)
    foreign: str = ""  #: the first option that is not modelled


def read_rules(
    words: list[str],
    family: Family,
    *,
    table: str = "",
    keep: bool = False,
    old: bool = False,
    declared: Container[str] | None = None,
    ipsets: Ipsets = None,
) -> tuple[Rule, ...]:
    """The rules that these words say: the words after ``-A CHAIN``. Their origin is not recovered here.

    There are several if ``-s`` or ``-d`` names several addresses: one for each, as iptables makes them. If ``table`` is
    given, a match or target that is not allowed in it is a ValueError. With ``keep``, words that are not modelled become
    ``Unknown`` parts. Without ``keep`` that happens only in a rule that moves no packet; any other rule with such words
    raises NotModelled. ``old``, and ``keep`` too, also reads ``-d ! NET``, as iptables did before 1.4.3.2.
    ``declared`` are the table's chains if a tool saved the rules: a match or target that iptables 1.8.9 does not have is
    then an extension of that machine, which is not modelled; otherwise it is a ValueError. ``ipsets`` are those of the
    machine; None: they are not known.
    """
    for at, word in enumerate(words):
        marked = _FAMILY_OPTIONS.get(word, family)
        if marked is not family and not (at and words[at - 1].startswith("-")):
            _several(
                words[:at], marked, table, keep=True, old=old or keep, declared=declared, ipsets=ipsets
            )  # the rest is not looked at
            raise OfOtherFamily("a rule of the other family")
    try:
        return _several(words, family, table, keep=False, old=old or keep, declared=declared, ipsets=ipsets)
    except NotModelled:
        kept = _several(words, family, table, keep=True, old=old or keep, declared=declared, ipsets=ipsets)
        if keep or all(_only_logs(rule) for rule in kept):
            return kept
        raise


def _only_logs(rule: Rule) -> bool:
    """Whether a rule moves no packet, and all that is not modelled in it are matches of which kpsim knows nothing."""
    target = rule.target
    if not moves_nothing(rule.body) or (isinstance(target, Adjust) and target.target in HARMLESS_TARGETS):
        return False
    unknown = (part.words.split() for part in rule.body if isinstance(part, Unknown))
    return all(words[0] == "-m" and words[1] in FOREIGN_MATCHES for words in unknown)


def _several(
    words: list[str], family: Family, table: str, *, keep: bool, old: bool, declared: Container[str] | None,
    ipsets: Ipsets,
) -> tuple[Rule, ...]:  # fmt: skip
    reader = partial(_RuleReader, words, family, table, keep=keep, old=old, declared=declared, ipsets=ipsets)
    first = reader()
    rule = first.read()
    if not first.several:
        return (rule,)
    options = list(first.several)
    return tuple(
        reader(chosen=dict(zip(options, texts, strict=True))).read()
        for texts in product(*(first.several[option] for option in options))
    )


class _RuleReader:
    __slots__ = (
        "begun",
        "chosen",
        "comment",
        "context",
        "declared",
        "family",
        "groups",
        "ipsets",
        "keep",
        "negated_address",
        "old",
        "opened",
        "position",
        "protocol",
        "several",
        "slots",
        "table",
        "target",
        "words",
        "written",
    )  # fmt: skip

    def __init__(
        self, words: list[str], family: Family, table: str, *, keep: bool, old: bool,
        declared: Container[str] | None, ipsets: Ipsets, chosen: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.words, self.family, self.table, self.keep, self.old = words, family, table, keep, old
        self.declared, self.ipsets = declared, ipsets
        self.chosen = chosen or {}  #: of an option that names several addresses, the one to read
        self.negated_address = ""  #: ``-s`` or ``-d`` if one of them is negated
        self.several: dict[str, list[str]] = {}  #: options that name several addresses → the addresses
        self.position = 0
        self.written: list[Written | None] = []  #: None: kept free for a group's expression
        self.target: Written | _Group | None = None
        self.comment: str | None = None
        self.groups: list[_Group] = []
        self.opened: dict[str, set[str]] = {"": set()}  #: modules of single options → options given
        self.slots: dict[str, int] = {}  #: modules whose last ``-m`` has no option yet → its place among the pieces
        self.begun: set[str] = set()  #: modules whose ``-m`` has an option, and may get more
        self.protocol = ""
        self.context = ""  #: the module or target to which the next options belong, for messages

    def read(self) -> Rule:
        while self.position < len(self.words):
            start = self.position
            try:
                self._step()
            except NotModelled:
                if not self.keep:
                    raise
                self._skip(start)
        for group in self.groups:
            self._finish(group)
        self._check_modules()
        written = _with_limited_types([piece for piece in self.written if piece is not None])
        if self.target is not None and not isinstance(self.target, _Group):
            written.append(self.target)
        return assemble(written, self.comment or "")

    def _next(self) -> str:
        if self.position == len(self.words):
            raise ValueError(f"{self.words[-1]} needs a value")
        self.position += 1
        return self.words[self.position - 1]

    def _step(self) -> None:
        word = self._next()
        negate = word == "!"
        if negate:
            word = self._next()
        if (option := OPTION_BY_NAME.get(word)) is not None and not self._of_last_extension(word):
            self._option(option, word, negate)
            return
        word = ALIASES.get(word, word)
        if word in ("-m", "-j", "-g"):
            if negate:
                raise ValueError(f"! {word} makes no sense")
            name = self._next()
            self.context = f"{word} {name}"
            if word == "-m":
                self._module(name)
            else:
                self._target(word, name)
            return
        if word in ("-c", "--set-counters"):
            if negate:
                raise ValueError(f"! {word} makes no sense")
            if not (self._next().isdigit() and self._next().isdigit()):
                raise ValueError(f"{word} needs two numbers: packets and bytes")
            return
        if word in _FAMILY_OPTIONS:
            if _FAMILY_OPTIONS[word] is not self.family:
                raise OfOtherFamily("a rule of the other family")
            return
        if word in ("-t", "--table"):
            raise ValueError("-t has no place in a rule: tables are written as *TABLE")
        self._group_option(word, negate)

    def _option(self, option: Option, word: str, negate: bool) -> None:
        """Reads an option that is an expression of its own."""
        module = self._module_of(option, word)
        name = option.written_as or option.name
        self._give(name, word, module)
        count = option.arguments
        text = self._next() if count else ""
        if text == "!":
            negate, text = self._negated_late(word, negate), self._next()
        if count == 2:
            text = f"{text} {self._next()}"
        if module == "udp":
            text = decimal(text)
        if name in _MANY_ADDRESSES:
            self.negated_address = name if negate else self.negated_address
            if "," in text:
                text = self._one_of_several(name, text)
            if self.several and self.negated_address:
                raise ValueError(f"! {self.negated_address} goes with single addresses or networks only")
        read = option.read(text, negate, self.family)
        if read is None:
            return
        part, detail = read
        row = ROWS[option.written_as] if option.written_as else option
        opens = option.place is Place.MATCH and not (option.module in JOINING and option.module in self.begun)
        self.begun.add(option.module)
        if option.name == "--comment" and self.comment is None:
            self.comment, detail = str(detail), None
        self._place(option, Written(row, part, detail, opens))
        if isinstance(part, Compare) and part.field is Field.L4PROTO and not negate:
            self.protocol = str(part.name)

    def _give(self, name: str, word: str, module: str) -> None:
        """Notes that an option was given. ValueError if its module takes it once only, or not here."""
        given = self.opened[module]
        if name in given:
            raise ValueError(f"{word} is given twice")
        if given and module in SINGLE:
            raise ValueError(f"-m {module} takes one option, not {min(given)} and {name}")
        if module == "multiport" and not self.protocol:
            raise ValueError(f"-p stands before {word}")
        given.add(name)

    def _place(self, option: Option, piece: Written) -> None:
        """Puts a piece where its ``-m`` stood, if it is the first of that ``-m``; else behind all others."""
        slot = self.slots.pop(option.module, -1) if option.place is Place.MATCH else -1
        if slot >= 0:
            self.written[slot] = piece
        else:
            self.written.append(piece)

    def _negated_late(self, word: str, negate: bool) -> bool:
        """Reads a ``!`` behind its option, as in ``-d ! NET``. ValueError unless the rule is from an old iptables."""
        if negate or not self.old:
            value = self.words[self.position] if self.position < len(self.words) else "…"
            raise ValueError(
                f"iptables refuses a ! behind its option: write ! {word} {value} (iptables before 1.4.3.2 took "
                f"{word} ! {value}, and so does --allow-unknown)"
            )
        return True

    def _one_of_several(self, name: str, text: str) -> str:
        """The address to read of ``-s A,B``; iptables makes a rule for each."""
        addresses = text.split(",")
        if len(addresses) > _MOST_ADDRESSES:
            raise ValueError(f"{name} names more than {_MOST_ADDRESSES} addresses")
        self.several[name] = addresses
        return self.chosen.get(name, addresses[0])

    def _of_last_extension(self, word: str) -> bool:
        """Whether an option belongs to the extension named last.

        ``--mark``, for example, is an option of several modules.
        """
        last = self.groups[-1].extension if self.groups else None
        return last is not None and self.context == last.name and word in last.options

    def _module_of(self, option: Option, word: str) -> str:
        modules = option.modules
        if not modules:
            return ""
        for module in modules:
            if module in self.opened:
                return module
        implied = IMPLIED_MODULE.get(self.protocol, "")
        if implied not in modules:
            raise ValueError(f"{word} needs -m {' or -m '.join(modules)}")
        self._module(implied)
        return implied

    def _module(self, name: str) -> None:
        if name in PORT_MODULES:
            if name not in self.opened:  # a second ``-m tcp`` adds nothing
                self.written.append(Written(PORT_MODULE_ROWS[name], None))
        elif name not in OPTION_MODULES:
            if (extension := EXTENSION_BY_NAME.get(("-m", name))) is None:
                if name not in FOREIGN_MATCHES:
                    if self.declared is None or not _EXTENSION_MATCH.fullmatch(name):
                        raise ValueError(f"iptables has no match -m {name}")
                    raise NotModelled(f"-m {name}, which iptables 1.8.9 does not have")
                raise NotModelled(f"-m {name}")
            self._check_table(extension)
            self.groups.append(_Group(extension, len(self.written)))
            self.written.append(None)
            return
        if self.opened.get(name) == set() and name not in PORT_MODULES:
            raise ValueError(f"-m {name} needs an option")
        self.opened[name] = self.opened.get(name, set()) if name in PORT_MODULES else set()
        self.begun.discard(name)
        if name not in PORT_MODULES:
            self.slots[name] = len(self.written)
            self.written.append(None)

    def _target(self, flag: str, name: str) -> None:
        if self.target is not None:
            raise ValueError("more than one target")
        if flag == "-g":
            self.target = Written(GOTO, Goto(name))
        elif (extension := EXTENSION_BY_NAME.get(("-j", name))) is not None:
            self._check_table(extension)
            self.target = _Group(extension, -1)
            self.groups.append(self.target)
        elif name in FOREIGN_TARGETS:
            raise NotModelled(f"-j {name}")
        elif (
            self.declared is not None
            and _EXTENSION_TARGET.fullmatch(name)
            and name not in _VERDICTS
            and name not in self.declared
        ):
            raise NotModelled(f"-j {name}, which is neither a declared chain nor a target of iptables 1.8.9")
        else:
            self.target = Written(VERDICT, _VERDICTS.get(name) or Jump(name))

    def _check_table(self, row: Extension | Option) -> None:
        if self.table and row.tables and self.table not in row.tables:
            where = " and ".join(sorted(row.tables))
            raise ValueError(f"{row.name} is valid in table {where} only")

    def _group_option(self, word: str, negate: bool) -> None:
        for group in reversed(self.groups):
            count = group.extension.options.get(word)
            if count is not None:
                break
        else:
            if not word.startswith("-"):
                raise ValueError(f"unexpected word {word!r}")
            if not self._is_refused(word):
                raise ValueError(f"{self.context or 'a rule'} has no option {word}")
            raise NotModelled(f"{self.context} {'! ' if negate else ''}{word}".strip())
        if word in group.arguments:
            raise ValueError(f"{word} is given twice")
        values = [self._next() for _ in range(count)]
        group.arguments[word] = " ".join(values), negate
        group.words += ["!"] * negate + [word] + values
        if negate and word not in group.extension.negatable:
            if f"! {word}" not in group.extension.refused:
                raise ValueError(f"! makes no sense before {word}")
            group.foreign = group.foreign or f"! {word}"

    def _is_refused(self, word: str) -> bool:
        """Whether iptables has an option that kpsim does not model."""
        flag, _, name = self.context.partition(" ")
        if word in _FOREIGN_HEADER:
            return True
        if (flag == "-m" and name in FOREIGN_MATCHES) or (flag == "-j" and name in FOREIGN_TARGETS):
            return True
        if any(word in REFUSED_OPTIONS.get(module, ()) for module in self.opened):
            return True
        return any(word in group.extension.refused for group in self.groups)

    def _finish(self, group: _Group) -> None:
        extension = group.extension
        name = extension.name
        try:
            if group.foreign:
                raise NotModelled(f"{name} {group.foreign}")
            if extension.among is None:
                part, detail = extension.read(group.arguments, self.family)
            else:
                part, detail = extension.among(group.arguments, self.family, self.ipsets)
        except NotModelled:
            if not self.keep:
                raise
            self._set_aside_group(group)
        else:
            if group.index < 0:
                self.target = Written(extension, part, detail)
            else:
                self.written[group.index] = Written(extension, part, detail)

    def _check_modules(self) -> None:
        for module, given in self.opened.items():
            if module == "":
                continue
            if not given and module not in PORT_MODULES:
                raise ValueError(f"-m {module} needs an option")
            protocols = MODULE_PROTOCOLS.get(module)
            if protocols is not None and self.protocol not in protocols:
                raise ValueError(f"-m {module} needs -p {' or '.join(protocols)}")

    def _skip(self, start: int) -> None:
        """Sets aside the words at ``start``, which are not modelled, with their options and values."""
        words = self.words
        first = start + (words[start] == "!")
        word = ALIASES.get(words[first], words[first])
        whole = word in ("-m", "-j")  # then options of unknown meaning follow
        end = min(first + (2 if whole else 1), len(words))
        while end < len(words) and not self._starts_part(end, whole):
            end += 1
        self.position = end
        text = words[start:end]
        option = OPTION_BY_NAME.get(word)
        if word == "-j":
            self.target = _unknown_target(text[1], " ".join(map(_word, text[2:])))
        elif option is not None and option.modules:
            self._set_aside(f"-m {next(module for module in option.modules if module in self.opened)}", text)
        elif option is not None or whole or word in _FOREIGN_HEADER:
            self._set_aside("", text)
        else:
            self._set_aside_option(text)

    def _set_aside(self, context: str, words: list[str]) -> None:
        self.written.append(_unknown(context, words))

    def _set_aside_group(self, group: _Group) -> None:
        name = group.extension.target
        if group.index < 0:
            self.target = _unknown_target(name, " ".join(map(_word, group.words)))
        else:
            self.written[group.index] = _unknown(f"-m {name}", group.words)

    def _set_aside_option(self, text: list[str]) -> None:
        """Sets aside an option that is not modelled: with its extension if it has one, else alone with its module."""
        flag, _, name = self.context.partition(" ")
        for group in reversed(self.groups):
            if (group.extension.flag, group.extension.target) == (flag, name):
                group.words += text
                group.foreign = group.foreign or text[0]
                return
        if name in self.opened:
            self.opened[name].add(text[0])
        self._set_aside("" if name in self.opened and name in PORT_MODULES else self.context, text)

    def _starts_part(self, at: int, whole: bool) -> bool:
        word = self.words[at]
        if word == "!" and at + 1 < len(self.words):
            word = self.words[at + 1]
            if not whole and word.startswith("-"):
                return True
        if word in ("-m", "--match", "-j", "--jump", "-g", "--goto"):
            return True
        option = OPTION_BY_NAME.get(word)
        return (option is not None and not option.modules) if whole else word.startswith("-")


#: options of a rule that only one family's tool takes; the other's passes the rule over
_FAMILY_OPTIONS = {"-4": Family.IPV4, "--ipv4": Family.IPV4, "-6": Family.IPV6, "--ipv6": Family.IPV6}

#: options of the header that are not modelled
_FOREIGN_HEADER = frozenset(("-f", "--fragment", "--fragments"))


def _unknown(context: str, words: list[str]) -> Written:
    return Written(UNKNOWN, Unknown(f"{context} {' '.join(map(_word, words))}".strip()))


def _unknown_target(name: str, arguments: str) -> Written:
    """A target that is not modelled. It may decide anything, unless it is known to let the packet go on unchanged."""
    if name in HARMLESS_TARGETS:
        return Written(HARMLESS_TARGET, Adjust(name, arguments))
    return Written(UNKNOWN_TARGET, Unmodelled(f"-j {name} {arguments}".strip()))


def _with_limited_types(written: list[Written]) -> list[Written]:
    """The pieces with the address types that a ``--limit-iface-in`` or ``-out`` of the same ``-m`` changes.

    ValueError if there is no address type to change, or both limits.
    """
    changed = list(written)
    group: list[int] = []
    for at in range(len(written) + 1):
        piece = written[at] if at < len(written) else None
        if piece is None or (piece.row.module == "addrtype" and piece.opens):
            limits = [written[i].row.name for i in group if written[i].row.name.startswith("--limit-iface")]
            types = [i for i in group if isinstance(written[i].part, Compare)]
            if len(limits) > 1:
                raise ValueError("--limit-iface-in and --limit-iface-out exclude each other")
            if limits and not types:
                raise ValueError(f"{limits[0]} needs --src-type or --dst-type")
            for i in types if limits else ():
                part = written[i].part
                assert isinstance(part, Compare)
                changed[i] = written[i]._replace(part=_of_field(part, _LIMITED[limits[0], part.field]))
            group = []
        if piece is not None and piece.row.module == "addrtype":
            group.append(at)
    return changed


def _of_field(part: Compare, field: Field) -> Compare:
    return Compare(field, part.among, part.negate, part.mask, part.absent)


def _word(text: str) -> str:
    return quoted(text) if not text or re.search(r"[\s\"\\]", text) else text
