"""Sets and files of ipset: ``ipset save``, or ``ipset list`` as far as nothing is lost in it."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from kpsim.addresses import Family
from kpsim.dialects.ipset.elements import read_bounds, read_element, write_bounds, write_element
from kpsim.errors import InputError, Problem
from kpsim.maps import Map
from kpsim.ruleset import IPSET_KINDS, Element, Interval, Ipset, Key, NamePattern, Set, SetFlags, make_ipset
from kpsim.units import SECOND_NS

_SAVED = re.compile(r"^(?:create|add|-N|-A) \S+ \S", re.MULTILINE)
_LISTED = re.compile(r"^Name: .*\r?\nType: \S+:", re.MULTILINE)
_XML = re.compile(r"\s*<ipsets>")
_RULES = re.compile(r"^(?:-A \S+ -[a-z]|\*\w+\s*$)", re.MULTILINE)
_WORD = re.compile(r'"([^"]*)"|(\S+)')
_LONGEST_NAME = 31
_LONGEST_TIMEOUT_S = 2_147_483
_OLD_NAMES: Mapping[str, str] = {
    "iphash": "hash:ip", "nethash": "hash:net", "ipporthash": "hash:ip,port", "ipportiphash": "hash:ip,port,ip",
    "ipportnethash": "hash:ip,port,net", "portmap": "bitmap:port", "ipmap": "bitmap:ip", "setlist": "list:set",
}  # fmt: skip
#: types of ipset 7.17 of which the elements are not read
_FOREIGN_KINDS = frozenset(("hash:mac", "hash:ip,mac", "bitmap:ip,mac", "list:set"))
#: options of ``create`` that change nothing in the set, nor in its text
_OF_MEMORY = frozenset(("initval", "probes", "resize", "gc"))


def reads(text: str) -> bool:
    """Whether a text looks like the output of ipset."""
    if _XML.match(text) or _LISTED.search(text):
        return True
    return _SAVED.search(text) is not None and _RULES.search(text) is None


def parse(text: str, *, file: str | None = None) -> Map[str, Set]:
    """The sets of a text, by name. InputError names every line that is wrong.

    A set of a type that is not modelled has no elements and no ``type``: what rules find in it is not known.
    """
    text = text.removeprefix("\ufeff")
    if _XML.match(text):
        raise InputError(Problem("this is ipset's XML: give the output of ipset save", file=file))
    document = _Document()
    lines = _of_listing(text) if _LISTED.search(text) else enumerate(text.split("\n"), start=1)
    problems: list[Problem] = []
    for number, line in lines:
        try:
            document.read([quoted or word for quoted, word in _WORD.findall(line)], line)
        except ValueError as problem:
            problems.append(Problem(str(problem), file=file, line=number))
    if problems:
        raise InputError(problems)
    return Map({name: open_set.finished() for name, open_set in document.sets.items()})


def _of_listing(text: str) -> Iterator[tuple[int, str]]:
    """The lines of ``ipset list`` as ``ipset save`` prints them: a listing says the same, but for terse ones."""
    name, kind, inside = "", "", False
    for number, line in enumerate(text.split("\n"), start=1):
        label, colon, rest = line.rstrip("\r").partition(":")
        rest = rest.strip()
        match label:
            case "Name" if colon:
                name, inside = rest, False
            case "Type" if not inside:
                kind = rest
            case "Header" if not inside:
                yield number, f'create "{name}" {kind} {rest}'
            case "Members" if colon and not rest:
                inside = True
            case _ if inside and line.strip():
                yield number, f'add "{name}" {line.strip()}'


@dataclass(slots=True)
class _Open:
    """A set whose elements are being read."""

    made: Set
    elements: dict[Key, Element] = field(default_factory=dict)
    count: int = 0

    def finished(self) -> Set:
        return replace(self.made, elements=Map(self.elements))

    @property
    def is_modelled(self) -> bool:
        return self.made.type is not None


@dataclass(slots=True)
class _Document:
    sets: dict[str, _Open] = field(default_factory=dict)

    def read(self, words: list[str], line: str) -> None:
        if not words or line.startswith("#") or words == ["COMMIT"]:
            return
        exists = "-exist" in words or "-!" in words
        words = [word for word in words if word not in ("-exist", "-!")]
        match words:
            case ["create" | "-N", name, kind, *options]:
                self._create(name, _OLD_NAMES.get(kind, kind), options, exists=exists)
            case ["add" | "-A", name, element, *options]:
                self._add(self._named(name), element, options, exists=exists)
            case ["flush" | "-F", name]:
                self._named(name).elements.clear()
                self._named(name).count = 0
            case ["destroy" | "-X", name]:
                self._named(name)
                del self.sets[name]
            case _:
                raise ValueError(f"not a line of ipset save: {line.strip()[:60]}")

    def _named(self, name: str) -> _Open:
        if name not in self.sets:
            raise ValueError(f"there is no set {name}")
        return self.sets[name]

    def _create(self, name: str, kind: str, options: list[str], *, exists: bool) -> None:
        if name in self.sets:
            if exists:
                return
            raise ValueError(f"set {name} appears twice")
        if len(name.encode()) > _LONGEST_NAME:
            raise ValueError(f"a name of a set has at most {_LONGEST_NAME} characters: {name}")
        if kind in IPSET_KINDS:
            made = _made(name, kind, options)
        elif kind in _FOREIGN_KINDS:
            made = Set(name=name, ipset=Ipset(kind))
        else:
            raise ValueError(f"not a type of sets: {kind}")
        self.sets[name] = _Open(made)

    def _add(self, of: _Open, text: str, options: list[str], *, exists: bool) -> None:
        if not of.is_modelled:
            return
        made = of.made
        assert made.ipset is not None
        element, wildcard = _element(made, options)
        for key in read_element(text, made.ipset, wildcard=wildcard):
            if key not in of.elements:
                of.count += 1
                if made.size is not None and of.count > made.size and not made.ipset.forceadd:
                    raise ValueError(f"set {made.name} is full: it takes {made.size:,} elements")
            elif not exists:
                raise ValueError(f"it is in set {made.name} already: {text}")
            of.elements[key] = element


# --- create -----------------------------------------------------------------------------------------------------------

Words = Iterator[str]


def _value(words: Words, option: str) -> str:
    found = next(words, None)
    if found is None:
        raise ValueError(f"{option} needs a value")
    return found


def _count(words: Words, option: str, most: int = 0xFFFFFFFF) -> int:
    text = _value(words, option)
    try:
        value = int(text, 16 if text.lower().startswith("0x") else 10)
    except ValueError:
        value = -1
    if not 0 <= value <= most:
        raise ValueError(f"{option}: not a number from 0 to {most}: {text!r}")
    return value


#: types of which an option of ``create`` is; of the others all are
_HASHES = frozenset(kind for kind, of in IPSET_KINDS.items() if not of.bitmap)
_ONLY_OF: Mapping[str, frozenset[str]] = {
    "family": _HASHES, "maxelem": _HASHES, "hashsize": _HASHES, "bucketsize": _HASHES, "range": frozenset(IPSET_KINDS) - _HASHES,
    "netmask": frozenset(("hash:ip", "bitmap:ip", "hash:ip,port", "hash:net,net")), "markmask": frozenset(("hash:ip,mark",)),
}  # fmt: skip
_NUMBERS = ("timeout", "maxelem", "hashsize", "bucketsize", "netmask", "markmask", *_OF_MEMORY)
_FLAGS = ("counters", "comment", "skbinfo", "forceadd")


def _made(name: str, kind: str, options: list[str]) -> Set:
    """The set that ``create`` makes with these options. ValueError for an option that the type does not have."""
    words = iter(options)
    numbers: dict[str, int] = {}
    flags: set[str] = set()
    family = Family.IPV4 if kind in _HASHES else None
    bounds: Interval | None = None
    for option in words:
        if kind not in _ONLY_OF.get(option, IPSET_KINDS):
            raise ValueError(f"{kind} has no option {option}")
        if option in _NUMBERS:
            numbers[option] = _count(words, option, _LONGEST_TIMEOUT_S if option == "timeout" else 0xFFFFFFFF)
        elif option in _FLAGS:
            flags.add(option)
        elif option == "family":
            family = _family(_value(words, option))
        elif option == "range":
            bounds = read_bounds(_value(words, option), kind)
        else:
            raise ValueError(f"{kind} has no option {option}")
    if kind not in _HASHES and bounds is None:
        raise ValueError(f"{kind} needs range")
    made = make_ipset(name, kind, family, bounds=bounds)
    assert made.ipset is not None
    ipset = replace(
        made.ipset,
        hash_size=numbers.get("hashsize", made.ipset.hash_size),
        bucket_size=numbers.get("bucketsize"),
        mask=_mask(numbers["netmask"], family or Family.IPV4) if "netmask" in numbers else None,
        mark_mask=numbers.get("markmask"),
        counters="counters" in flags,
        comments="comment" in flags,
        skbinfo="skbinfo" in flags,
        forceadd="forceadd" in flags,
    )
    expires = "timeout" in numbers
    return replace(
        made,
        flags=made.flags | SetFlags.TIMEOUT if expires else made.flags,
        timeout_ns=numbers["timeout"] * SECOND_NS if expires else None,
        size=numbers.get("maxelem") or made.size,
        ipset=ipset,
    )


def _mask(prefix: int, family: Family) -> int | None:
    if not 0 < prefix <= family.bits:
        raise ValueError(f"not a netmask of {family.label}: {prefix}")
    return None if prefix == family.bits else family.mask(prefix)


def _family(text: str) -> Family:
    families = {"inet": Family.IPV4, "ipv4": Family.IPV4, "-4": Family.IPV4, "inet6": Family.IPV6, "ipv6": Family.IPV6}
    if text not in families:
        raise ValueError(f"not a family (inet, inet6): {text}")
    return families[text]


def _element(of: Set, options: list[str]) -> tuple[Element, bool]:
    """What an element says beside its key, and whether its interface is a beginning of names."""
    ipset, words = of.ipset, iter(options)
    assert ipset is not None
    timeout_ns, comment, nomatch, wildcard = of.timeout_ns or None, "", False, False
    for option in words:
        match option:
            case "timeout" if of.timeout_ns is not None:
                timeout_ns = _count(words, option, _LONGEST_TIMEOUT_S) * SECOND_NS or None
            case "packets" | "bytes" if ipset.counters:
                _count(words, option, (1 << 64) - 1)
            case "comment" if ipset.comments:
                comment = _value(words, option)
            case "skbmark" | "skbprio" | "skbqueue" if ipset.skbinfo:
                _value(words, option)
            case "timeout" | "comment" | "packets" | "bytes" | "skbmark" | "skbprio" | "skbqueue":
                raise ValueError(f"{option}: set {of.name} was created without it")
            case "nomatch" if IPSET_KINDS[ipset.kind].has_networks:
                nomatch = True
            case "wildcard" if ipset.kind == "hash:net,iface":
                wildcard = True
            case _:
                raise ValueError(f"an element of {ipset.kind} has no option {option}")
    return Element(comment=comment, timeout_ns=timeout_ns, nomatch=nomatch), wildcard


# --- text -------------------------------------------------------------------------------------------------------------


def render(sets: Mapping[str, Set]) -> str:
    """Sets as ``ipset save`` prints them, sorted by name and element. Counters, which are no part of a set, are left out."""
    return "".join(f"{line}\n" for name in sorted(sets) for line in _lines(sets[name]))


def _lines(of: Set) -> Iterator[str]:
    ipset = of.ipset
    assert ipset is not None
    yield f"create {_name(of.name)} {ipset.kind}{''.join(_options(of, ipset))}"
    written = [(write_element(key, ipset), element, key) for key, element in of.elements.items()]
    for text, element, key in sorted(written, key=lambda each: each[0]):
        more = ""
        if of.timeout_ns is not None:
            more += f" timeout {(element.timeout_ns or 0) // SECOND_NS}"
        more += f' comment "{element.comment}"' if element.comment else ""
        more += " nomatch" if element.nomatch else ""
        more += " wildcard" if any(isinstance(part, NamePattern) for part in key) else ""
        yield f"add {_name(of.name)} {text}{more}"


def _options(of: Set, ipset: Ipset) -> Iterator[str]:
    """The options of ``create``, in the order of ``ipset save``."""
    numbers: tuple[tuple[str, object, Callable[[object], str]], ...] = (
        ("hashsize", ipset.hash_size, str),
        ("maxelem", of.size, str),
        ("netmask", ipset.mask, lambda mask: str(int(mask).bit_count())),  # type: ignore[call-overload]
        ("timeout", of.timeout_ns, lambda timeout_ns: str(int(timeout_ns) // SECOND_NS)),  # type: ignore[call-overload]
    )
    if ipset.family is not None:
        yield f" family {'inet' if ipset.family is Family.IPV4 else 'inet6'}"
    if ipset.mark_mask is not None:
        yield f" markmask 0x{ipset.mark_mask:08x}"
    if ipset.bounds is not None:
        yield f" range {write_bounds(ipset.bounds, ipset.kind)}"
    for option, value, written in numbers:
        if value is not None:
            yield f" {option} {written(value)}"
    flags = (
        ("counters", ipset.counters),
        ("comment", ipset.comments),
        ("skbinfo", ipset.skbinfo),
        ("forceadd", ipset.forceadd),
    )
    yield from (f" {option}" for option, given in flags if given)
    if ipset.bucket_size is not None:
        yield f" bucketsize {ipset.bucket_size}"


def _name(name: str) -> str:
    return f'"{name}"' if " " in name else name
