"""Reads the words of one iptables rule into a :class:`~kpsim.ruleset.Rule`.

Counterpart: the option parser of iptables and iptables-restore. Malformed words are a ValueError, and words that kpsim
does not model are a NotModelled. The caller adds file and line.
"""

import re
from dataclasses import dataclass, field

from kpsim.addresses import Family
from kpsim.dialects.iptables.options import (
    ALIASES,
    EXTENSION_BY_NAME,
    FOREIGN_TARGETS,
    GOTO,
    IMPLIED_MODULE,
    JOINING,
    MODULE_PROTOCOLS,
    OPTION_BY_NAME,
    OPTION_MODULES,
    PORT_MODULE_ROWS,
    PORT_MODULES,
    ROWS,
    UNKNOWN,
    VERDICT,
    Extension,
    Option,
    Place,
)
from kpsim.dialects.iptables.spelling import Written, assemble, text_of_type
from kpsim.dialects.iptables.values import NotModelled, quoted
from kpsim.ruleset import Compare, Field, Goto, Jump, Rule, Terminal, Unknown, Verdict, moves_nothing

_WORD = re.compile(r"[^ \t]+")
_QUOTED_WORD = re.compile(r'[^ \t"]*"(?:[^"\\]|\\.)*"|[^ \t"]+|"')
_ESCAPED = re.compile(r"\\(.)")
_LIMITED_TYPE = "-m addrtype --limit-iface"
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


@dataclass(slots=True)
class _Group:
    """The options of one extension, collected until the rule ends."""

    extension: Extension
    index: int  #: place of the expression among the written pieces; -1: it is the target
    arguments: dict[str, tuple[str, bool]] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)
    foreign: str = ""  #: the first option that is not modelled


def read_rule(words: list[str], family: Family, *, table: str = "", keep: bool = False) -> Rule:
    """The rule that these words say: the words after ``-A CHAIN``. Its origin is not recovered here.

    If ``table`` is given, a target that is not allowed in it is a ValueError. With ``keep``, words that are not
    modelled become ``Unknown`` parts after all known expressions. Without ``keep`` that happens only in a rule that
    moves no packet; any other rule with such words raises NotModelled.
    """
    try:
        return _RuleReader(words, family, table, keep=False).read()
    except NotModelled:
        kept = _RuleReader(words, family, table, keep=True).read()
        if keep or moves_nothing(kept.body):
            return kept
        raise


class _RuleReader:
    __slots__ = (
        "begun", "comment", "context", "family", "groups", "keep", "opened", "position", "protocol", "table", "target", "unknown",
        "words", "written",
    )  # fmt: skip

    def __init__(self, words: list[str], family: Family, table: str, keep: bool) -> None:
        self.words, self.family, self.table, self.keep = words, family, table, keep
        self.position = 0
        self.written: list[Written | None] = []  #: None: kept free for a group's expression
        self.target: Written | _Group | None = None
        self.comment: str | None = None
        self.groups: list[_Group] = []
        self.opened: dict[str, set[str]] = {"": set()}  #: modules of single options → options given
        self.begun: set[str] = set()  #: modules whose ``-m`` has an option, and may get more
        self.protocol = ""
        self.context = ""  #: the module or target to which the next options belong, for messages
        self.unknown: list[Unknown] = []

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
        if any(unknown.words.startswith(_LIMITED_TYPE) for unknown in self.unknown):
            self._set_aside_types()
        written = [piece for piece in self.written if piece is not None]
        written += [Written(UNKNOWN, unknown) for unknown in self.unknown]
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
            self._next(), self._next()
            return
        if word in ("-t", "--table"):
            raise ValueError("-t has no place in a rule: tables are written as *TABLE")
        self._group_option(word, negate)

    def _option(self, option: Option, word: str, negate: bool) -> None:
        """Reads an option that is an expression of its own."""
        given = self.opened[self._module_of(option, word)]
        name = option.names[0]
        if name in given:
            raise ValueError(f"{word} is given twice")
        given.add(name)
        count = option.arguments
        text = self._next() if count == 1 else " ".join(self._next() for _ in range(count))
        read = option.read(text, negate, self.family)
        if read is None:
            return
        part, detail = read
        row = ROWS[option.written_as] if option.written_as else option
        module = option.module
        opens = option.place is Place.MATCH and not (module in JOINING and module in self.begun)
        self.begun.add(module)
        if option.name == "--comment" and self.comment is None:
            self.comment, detail = str(detail), None
        self.written.append(Written(row, part, detail, opens))
        if isinstance(part, Compare) and part.field is Field.L4PROTO and not negate:
            self.protocol = str(part.name)

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
                raise NotModelled(f"-m {name}")
            self.groups.append(_Group(extension, len(self.written)))
            self.written.append(None)
            return
        self.opened[name] = set()
        self.begun.discard(name)

    def _target(self, flag: str, name: str) -> None:
        if self.target is not None:
            raise ValueError("more than one target")
        if flag == "-g":
            self.target = Written(GOTO, Goto(name))
        elif (extension := EXTENSION_BY_NAME.get(("-j", name))) is not None:
            if self.table and extension.table not in ("", self.table):
                raise ValueError(f"-j {name} is valid in table {extension.table} only")
            self.target = _Group(extension, -1)
            self.groups.append(self.target)
        elif name in FOREIGN_TARGETS:
            raise NotModelled(f"-j {name}")
        else:
            self.target = Written(VERDICT, _VERDICTS.get(name) or Jump(name))

    def _group_option(self, word: str, negate: bool) -> None:
        for group in reversed(self.groups):
            count = group.extension.options.get(word)
            if count is not None:
                break
        else:
            if not word.startswith("-"):
                raise ValueError(f"unexpected word {word!r}")
            raise NotModelled(f"{self.context} {'! ' if negate else ''}{word}".strip())
        if word in group.arguments:
            raise ValueError(f"{word} is given twice")
        text = self._next() if count else ""
        group.arguments[word] = text, negate
        group.words += ["!"] * negate + [word] + [text] * count
        if negate and word not in group.extension.negatable:
            group.foreign = group.foreign or f"! {word}"

    def _finish(self, group: _Group) -> None:
        extension = group.extension
        name = extension.name
        try:
            if group.foreign:
                raise NotModelled(f"{name} {group.foreign}")
            part, detail = extension.read(group.arguments, self.family)
        except NotModelled:
            if not self.keep:
                raise
            self._set_aside(name, group.words)
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
        word = words[first]
        whole = word in ("-m", "--match", "-j", "--jump")  # then options of unknown meaning follow
        end = min(first + (2 if whole else 1), len(words))
        while end < len(words) and not self._starts_part(end, whole):
            end += 1
        self.position = end
        text = words[start:end]
        option = OPTION_BY_NAME.get(word)
        if option is not None and option.modules:
            self._set_aside(f"-m {next(module for module in option.modules if module in self.opened)}", text)
        elif option is not None or whole or not self.context:
            self._set_aside("", text)
        else:
            self._set_aside_option(text)

    def _set_aside(self, context: str, words: list[str]) -> None:
        self.unknown.append(Unknown(f"{context} {' '.join(map(_word, words))}".strip()))

    def _set_aside_option(self, text: list[str]) -> None:
        """Sets aside an option that is not modelled: with its extension if it has one, else alone with its module."""
        flag, _, name = self.context.partition(" ")
        for group in reversed(self.groups):
            if (group.extension.flag, group.extension.target) == (flag, name):
                group.words += text
                group.foreign = group.foreign or text[0]
                return
        if flag != "-m":
            self.target = None
        elif name in self.opened:
            self.opened[name].add(text[0])
        self._set_aside(self.context, text)

    def _set_aside_types(self) -> None:
        """Sets aside all address types of a rule with ``--limit-iface-in`` or ``-out``, which change their meaning."""
        types = [piece for piece in self.written if piece is not None and piece.row.module == "addrtype"]
        words = "".join(f" {text_of_type(piece, self.family)}" for piece in types)
        self.written = [piece for piece in self.written if piece not in types]
        for i, unknown in enumerate(self.unknown):
            if unknown.words.startswith(_LIMITED_TYPE):
                self.unknown[i] = Unknown(f"-m addrtype{words}{unknown.words.removeprefix('-m addrtype')}")

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


def _word(text: str) -> str:
    return quoted(text) if not text or re.search(r"[\s\"\\]", text) else text
