"""Small mistakes that could stand in a module. Each is a mutant, and some test should notice it.

The source file is only read. A mutation changes the syntax tree in place for as long as it is the current one, so the
tests compile exactly what the description says. Left alone: docstrings, annotations, decorators, defaults of parameters
and of fields, members of enums, assertions, and what only mypy reads.
"""

import ast
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    """A part of a module that is mutated and exchanged as a whole: a function, a method, or an assigned constant."""

    name: str  #: qualified name of the function, or the names assigned to
    node: ast.stmt
    owner: str = ""  #: the class that the constant belongs to

    @property
    def is_function(self) -> bool:
        return isinstance(self.node, ast.FunctionDef)


@dataclass(frozen=True)
class Mutation:
    """``before`` and ``after`` are source text; ``nth`` counts equal texts in one unit, from 1."""

    unit: Unit
    line: int
    before: str
    after: str
    nth: int

    def __str__(self) -> str:
        again = f" (#{self.nth})" if self.nth > 1 else ""
        return f"{self.unit.name}: {self.before} → {self.after}{again}"


def units(tree: ast.Module) -> Iterator[Unit]:
    """The parts of a module, in order."""
    yield from _units(tree.body, "", constants=True)


def _units(body: Iterable[ast.stmt], owner: str, *, constants: bool) -> Iterator[Unit]:
    for node in body:
        match node:
            case ast.FunctionDef(name):
                yield Unit(f"{owner}.{name}" if owner else name, node)
            case ast.ClassDef(name, bases):
                names = {ast.unparse(base) for base in bases}
                if not names & {"Interface", "Protocol"}:
                    enumeration = any("Enum" in name for name in names)
                    yield from _units(node.body, f"{owner}.{name}" if owner else name, constants=not enumeration)
            case ast.Assign(value=ast.Call(ast.Name("TypeVar"))):
                pass
            case ast.Assign(targets=[target]) if constants and _names(target):
                yield Unit(", ".join(_names(target)), node, owner)
            case ast.AnnAssign(target=ast.Name(name), value=ast.expr()) if not owner:
                yield Unit(name, node)
            case _:
                pass


def _names(target: ast.expr) -> list[str]:
    parts = target.elts if isinstance(target, ast.Tuple) else [target]
    names = [part.id for part in parts if isinstance(part, ast.Name)]
    return [] if "__all__" in names or "__slots__" in names else names


def mutations(unit: Unit) -> Iterator[Mutation]:
    """Yield each mutation of a unit. While it is the current one, the unit's syntax tree is changed."""
    seen: dict[tuple[str, str], int] = {}
    roots = unit.node.body if isinstance(unit.node, ast.FunctionDef) else [unit.node]
    for root in roots:
        if _is_text_alone(root):
            continue
        for parent, field, index, node in _places(root):
            for new in _replacements(node):
                before, after = _texts(node, new)
                seen[before, after] = nth = seen.get((before, after), 0) + 1
                ast.copy_location(new, node)
                ast.fix_missing_locations(new)
                _put(parent, field, index, new)
                yield Mutation(unit, node.lineno, before, after, nth)
                _put(parent, field, index, node)
    if isinstance(unit.node, ast.FunctionDef):
        yield from _statements(unit, unit.node, seen)


def _statements(unit: Unit, function: ast.FunctionDef, seen: dict[tuple[str, str], int]) -> Iterator[Mutation]:
    """Leave out statements whose effect some test should miss."""
    for parent in ast.walk(function):
        for field in ("body", "orelse", "finalbody"):
            block = getattr(parent, field, None)
            for index, node in enumerate(block if isinstance(block, list) else ()):
                if not _has_effect(node):
                    continue
                before = _text(node)
                seen[before, "pass"] = nth = seen.get((before, "pass"), 0) + 1
                block[index] = ast.copy_location(ast.Pass(), node)
                yield Mutation(unit, node.lineno, before, "pass", nth)
                block[index] = node


def _has_effect(node: ast.stmt) -> bool:
    match node:
        case ast.Expr(ast.Call()) | ast.Delete() | ast.Raise() | ast.AugAssign():
            return "assert_never" not in ast.unparse(node)
        case ast.Assign(targets=targets):
            return not any(isinstance(part, ast.Name) for target in targets for part in ast.walk(target)
                           if isinstance(getattr(part, "ctx", None), ast.Store))  # fmt: skip
        case _:
            return False


_Place = tuple[ast.AST, str, int | None, ast.expr | ast.stmt]


def _places(node: ast.AST) -> Iterator[_Place]:
    """Yield every expression and statement below ``node`` that may be replaced, with its place."""
    if isinstance(node, ast.Assert):
        return
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "decorator_list", "returns", "args") and not isinstance(node, ast.Call):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if _is_type_of_cast(node, field, index):
                continue
            if isinstance(child, ast.expr | ast.stmt) and not _is_text_alone(child):
                yield node, field, index, child
            if isinstance(child, ast.AST) and not _is_text_alone(child):
                yield from _places(child)


def _is_type_of_cast(node: ast.AST, field: str, index: int | None) -> bool:
    """``cast("int", value)``: only mypy reads the type."""
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "cast" and (field, index) == ("args", 0)


def _is_text_alone(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _put(parent: ast.AST, field: str, index: int | None, node: ast.AST) -> None:
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node


def _texts(before: ast.AST, after: ast.AST) -> tuple[str, str]:
    """Return both texts. For a table they are only the lines that differ."""
    match before, after:
        case ast.Constant(str() as old), ast.Constant(str() as new) if "\n" in old:
            lines = zip(old.split("\n"), new.split("\n"), strict=True)
            different = (pair for pair in lines if pair[0] != pair[1])
            left, right = (" ".join(line.split()) for line in next(different))
            return left, right
        case _:
            return _text(before), _text(after)


def _text(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 100 else f"{text[:60]} … {text[-38:]}"


# --- what can be wrong -------------------------------------------------------------------------------------------------

_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,), ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
}  # fmt: skip
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitOr,
}  # fmt: skip
_OPPOSITES = {"any": "all", "all": "any", "min": "max", "max": "min"}


def _replacements(node: ast.expr | ast.stmt) -> Iterator[ast.expr | ast.stmt]:  # noqa: C901 - one case per kind of node
    match node:
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() as value):
            yield ast.Constant(value + 1)
        case ast.Constant(str() as value):
            yield from map(ast.Constant, _other_texts(value))
        case ast.Compare(left, [operator], others):
            for other in _COMPARISONS[type(operator)]:
                yield ast.Compare(left, [other()], others)
        case ast.Compare(left, operators, others):
            for index, operator in enumerate(operators):
                for other in _COMPARISONS[type(operator)]:
                    yield ast.Compare(left, [*operators[:index], other(), *operators[index + 1 :]], others)
        case ast.BoolOp(operator, values):
            yield ast.BoolOp(ast.Or() if isinstance(operator, ast.And) else ast.And(), values)
            for index in range(len(values)):
                left_over = [*values[:index], *values[index + 1 :]]
                yield left_over[0] if len(left_over) == 1 else ast.BoolOp(operator, left_over)
        case ast.UnaryOp(_, operand):
            yield operand
        case ast.BinOp(left, operator, right) if type(operator) in _OPERATORS:
            yield ast.BinOp(left, _OPERATORS[type(operator)](), right)
        case ast.AugAssign(target, operator, value) if type(operator) in _OPERATORS:
            yield ast.AugAssign(target, _OPERATORS[type(operator)](), value)
        case ast.IfExp(_, body, orelse):
            yield body
            yield orelse
        case ast.Call(ast.Name(name), args, keywords) if name in _OPPOSITES:
            yield ast.Call(ast.Name(_OPPOSITES[name], ast.Load()), args, keywords)
        case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
            yield from _unfiltered(node)
        case ast.If(_, body, orelse):
            yield ast.If(ast.Constant(True), body, orelse)
            yield ast.If(ast.Constant(False), body, orelse)
        case ast.While(_, body, orelse):
            yield ast.While(ast.Constant(False), body, orelse)
        case ast.Return(ast.expr() as value) if not isinstance(value, ast.Constant):
            yield ast.Return(None)
        case ast.Break():
            yield ast.Continue()
        case ast.Continue():
            yield ast.Break()
        case ast.Match(subject, cases):
            yield from _fewer_cases(subject, cases)
        case _:
            pass


def _other_texts(text: str) -> Iterator[str]:
    if "\n" not in text:
        yield f"XX{text}"
        return
    lines = text.split("\n")  # a table: each word gives way to the next one in its line
    for number, line in enumerate(lines):
        words = line.split()
        for at, (word, following) in enumerate(itertools.pairwise(words)):
            if word != following:
                changed = " ".join([*words[:at], following, *words[at + 1 :]])
                yield "\n".join([*lines[:number], changed, *lines[number + 1 :]])


_Comprehension = ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp


def _unfiltered(node: _Comprehension) -> Iterator[_Comprehension]:
    for at, generator in enumerate(node.generators):
        for index in range(len(generator.ifs)):
            ifs = [*generator.ifs[:index], *generator.ifs[index + 1 :]]
            freed = ast.comprehension(generator.target, generator.iter, ifs, generator.is_async)
            generators = [*node.generators[:at], freed, *node.generators[at + 1 :]]
            if isinstance(node, ast.DictComp):
                yield ast.DictComp(node.key, node.value, generators)
            else:
                yield type(node)(node.elt, generators)


def _fewer_cases(subject: ast.expr, cases: list[ast.match_case]) -> Iterator[ast.Match]:
    for index, case in enumerate(cases):
        without = [*cases[:index], *cases[index + 1 :]]
        closes = "assert_never" in ast.unparse(case) or isinstance(case.body[0], ast.Pass)
        if without and not closes:
            yield ast.Match(subject, without)
        if case.guard is not None:
            free = ast.match_case(case.pattern, None, case.body)
            if index + 1 == len(cases) or not isinstance(case.pattern, ast.MatchAs):
                yield ast.Match(subject, [*cases[:index], free, *cases[index + 1 :]])
