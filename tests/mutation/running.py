"""Runs tests against mutants inside one pytest session. Each mutant is a fork that ends with the first failing test.

The plugin replaces pytest's run loop. A fork sends back one line through a pipe, and nothing else.
"""

import ast
import dataclasses
import enum
import functools
import gc
import importlib
import inspect
import json
import os
import re
import resource
import signal
import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol
from mutations import Mutation, Unit, mutations, units

_SLOWEST_MUTANT_S = 40  # of processor time; a mutant that makes the tests run longer counts as caught
_SLOWEST_TEST_S = 2  # of processor time, and ten times what the test takes without a mutant: the same for one test
_PATIENCE = 30  # times as long by the clock; behind that the machine was too busy, or a test waits for what never comes

_OURS = re.compile(r"(kpsim|fuzz|tests)\b|test_")  # modules whose caches tests share


class Verdict(enum.Enum):
    CAUGHT = "caught"
    SURVIVED = "survived"
    EQUIVALENT = "equivalent"
    UNDECIDED = "not ended in time, for want of a processor"
    IMPOSSIBLE = "cannot even be put in place"


@dataclass(frozen=True)
class Outcome:
    module: str
    line: int
    key: str
    verdict: Verdict
    told_by: str = ""  #: the test that failed

    def __str__(self) -> str:
        path = self.module.replace(".", "/")
        return f"{path}.py:{self.line} {self.key.partition(' ')[2]}"


class Mutants:
    """A pytest plugin.

    ``every``: only every Nth mutant of each module, ``skip`` behind the usual ones; ``only``: only these keys; ``equivalent``: keys that no test can
    catch.
    """

    def __init__(
        self, modules: Sequence[str], *, every: int, only: frozenset[str] | None, equivalent: frozenset[str], skip: int = 0,
    ) -> None:  # fmt: skip
        self.modules = modules
        self.outcomes: list[Outcome] = []
        self._every, self._skip, self._only, self._equivalent = every, skip, only, equivalent
        self._seconds: dict[str, float] = {}  # the time that each test takes
        self._reached: dict[str, set[str]] = {}  # function → tests
        self._catchers: dict[str, None] = {}  # tests, the one that failed last first

    def unused_equivalents(self) -> list[str]:
        """Return the entries that name no mutant of the modules asked for, or one that a test caught."""
        used = {outcome.key for outcome in self.outcomes if outcome.verdict is Verdict.EQUIVALENT}
        mine = sorted(key for key in self._equivalent if key.partition(" ")[0] in self.modules)
        return [key for key in mine if key not in used] if self._every == 1 and self._only is None else []

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        # not at the top of the module: pytest must see its import first
        from hypothesis import Phase, settings

        # one failure is enough, so Hypothesis need not shrink it
        phases = (Phase.explicit, Phase.generate)
        settings.register_profile("mutants", derandomize=True, database=None, phases=phases)
        settings.load_profile("mutants")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            raise session.Interrupted("tests could not be collected")
        gc.freeze()
        self._look_at_the_healthy(session.items)
        items = {item.nodeid: item for item in session.items}
        for name in self.modules:
            started = time.perf_counter()
            for mutated in self._of_module(name):
                outcome = mutated.outcome(self, items)
                self.outcomes.append(outcome)
                if outcome.verdict in (Verdict.SURVIVED, Verdict.UNDECIDED):
                    print(f"{outcome.verdict.name.lower()}: {outcome}", flush=True)
            caught = sum(o.verdict is Verdict.CAUGHT for o in self.outcomes if o.module == name)
            total = sum(o.module == name for o in self.outcomes)
            print(f"{name}: {caught} of {total} caught, {time.perf_counter() - started:.0f} s", flush=True)
        return True

    def _of_module(self, name: str) -> Iterator["_Mutated"]:
        module = importlib.import_module(name)
        tree = ast.parse(Path(str(module.__file__)).read_text("utf-8"))
        number = 0
        for unit in units(tree):
            for mutation in mutations(unit):
                number += 1
                mutated = _Mutated(module, tree, unit, mutation)
                if (number - self._skip) % self._every == 0 and (self._only is None or mutated.key in self._only):
                    yield mutated

    # --- which tests ---------------------------------------------------------------------------------------------------

    def _look_at_the_healthy(self, items: Sequence[pytest.Item]) -> None:
        """Run everything once in a fork, to see how long each test takes and which functions it calls."""
        files = {str(importlib.import_module(name).__file__): name for name in self.modules}

        def look() -> str:
            seconds, reached = {}, {}
            called: set[str] = set()

            def profile(frame: types.FrameType, event: str, _argument: object) -> None:
                if event == "call" and (name := files.get(frame.f_code.co_filename)):
                    called.add(f"{name} {frame.f_code.co_qualname.partition('.<locals>')[0]}")

            caches = _caches()
            for item, following in zip(items, [*items[1:], None], strict=True):
                called.clear()
                for each in caches:  # else only the first test would reach what several ask for
                    each.cache_clear()
                started = time.perf_counter()
                sys.setprofile(profile)
                failed = _failed(item, following)
                sys.setprofile(None)
                if failed:
                    return json.dumps(item.nodeid)
                seconds[item.nodeid] = time.perf_counter() - started
                for function in called:
                    reached.setdefault(function, []).append(item.nodeid)
            return json.dumps([seconds, reached])

        text = _in_a_fork(look, limit_s=600)
        told = json.loads(text if text.startswith(("[", '"')) else '"the time limit"')
        if isinstance(told, str):
            raise pytest.UsageError(f"fails without any mutant: {told}")
        self._seconds, reached = told
        self._reached = {function: set(tests) for function, tests in reached.items()}

    def tests_of(self, module: str, unit: Unit, *, everything: bool) -> list[str]:
        """Return the tests that reach a function, or everything, in the order in which they should run."""
        tests = set(self._seconds) if everything else self._reached.get(f"{module} {unit.name}", set())
        first = [test for test in reversed(self._catchers) if test in tests][:20]
        return first + sorted(tests - set(first), key=lambda test: self._seconds[test])

    def longest_s(self, test: str) -> float:
        """Return the processor time that a test may take with a mutant."""
        return _SLOWEST_TEST_S + 10 * self._seconds[test]

    def remember(self, test: str) -> None:
        self._catchers.pop(test, None)
        self._catchers[test] = None

    def is_equivalent(self, key: str) -> bool:
        return key in self._equivalent


@dataclass(frozen=True)
class _Mutated:
    """One mutant. The tree is changed only until the generator that made it goes on."""

    module: types.ModuleType
    tree: ast.Module
    unit: Unit
    mutation: Mutation

    @property
    def key(self) -> str:
        return f"{self.module.__name__} {self.mutation}"

    def outcome(self, mutants: Mutants, items: dict[str, pytest.Item]) -> Outcome:
        name, key = self.module.__name__, self.key
        made = self._made_of()
        # which code reads a constant is not known
        tests = mutants.tests_of(name, self.unit, everything=bool(made) or not self.unit.is_function)

        def live() -> str:
            try:
                self._put_in_place(made)
            except Exception:
                return "impossible"
            chosen = [items[test] for test in tests]  # none, if none reaches the function
            for item, following in zip_longest(chosen, chosen[1:]):
                signal.setitimer(signal.ITIMER_VIRTUAL, mutants.longest_s(item.nodeid))
                if _failed(item, following):
                    return f"caught {item.nodeid}"
            return "survived"

        verdict, _, test = (_in_a_fork(live, limit_s=_SLOWEST_MUTANT_S) or "caught ").partition(" ")
        if test:
            mutants.remember(test)
        told = Verdict[verdict.upper()]
        if told is Verdict.SURVIVED and mutants.is_equivalent(key):
            told = Verdict.EQUIVALENT
        return Outcome(name, self.mutation.line, key, told, test)

    def _put_in_place(self, made: Sequence[Unit]) -> None:
        if self.unit.is_function:
            whole = compile(self.tree, str(self.module.__file__), "exec")
            function = _function(self.module, self.unit.name)
            function.__code__ = _code_of(whole, self.unit.name, function.__code__.co_firstlineno)
        else:
            self._assign(self.unit)
        for later in made:
            self._assign(later)

    def _made_of(self) -> list[Unit]:
        """The constants behind the unit that the import makes of it: of the constant, or by calling the function."""
        names = set(self.unit.name.split(", "))
        functions, constants = (names, set[str]()) if self.unit.is_function else (set[str](), names)
        bodies = {unit.name: unit.node for unit in units(self.tree) if unit.is_function}
        made = []
        for later in units(self.tree):
            if later.is_function or later.node.lineno <= self.unit.node.lineno:
                continue
            read, called = _read_at_import(later.node, bodies)
            if called & functions or read & constants:
                made.append(later)
                constants |= set(later.name.split(", "))
        return made

    def _assign(self, unit: Unit) -> list[str]:
        """Run an assignment of the module anew, and return the names that it assigns."""
        code = compile(ast.Module([unit.node], []), str(self.module.__file__), "exec")
        owner = getattr(self.module, unit.owner) if unit.owner else self.module
        names: dict[str, Any] = {}
        exec(code, {**vars(self.module), **vars(owner)}, names)
        for name, value in names.items():
            _replace_everywhere(owner, name, value)
        return list(names)


def _read_at_import(node: ast.stmt, functions: Mapping[str, ast.stmt]) -> tuple[set[str], set[str]]:
    """The names that an assignment reads, also in the functions of the module that it calls; and these functions."""
    names, called = set[str](), set[str]()
    waiting = [node]
    while waiting:
        for part in ast.walk(waiting.pop()):
            match part:
                case ast.Name(name):
                    names.add(name)
                case ast.Call(ast.Name(name)) if name in functions and name not in called:
                    called.add(name)
                    waiting.append(functions[name])
                case _:
                    pass
    return names, called


def _function(module: types.ModuleType, qualified: str) -> types.FunctionType:
    found: Any = module
    for name in qualified.split("."):
        found = inspect.getattr_static(found, name)
    found = getattr(found, "fget", found)  # a property
    found = inspect.unwrap(getattr(found, "__func__", found))
    assert isinstance(found, types.FunctionType), qualified
    return found


def _code_of(code: types.CodeType, qualified: str, line: int) -> types.CodeType:
    waiting = [code]
    while waiting:
        each = waiting.pop()
        if each.co_qualname == qualified and each.co_firstlineno == line:
            return each
        waiting += [constant for constant in each.co_consts if isinstance(constant, types.CodeType)]
    raise LookupError(qualified)


def _replace_everywhere(owner: Any, name: str, value: Any) -> None:
    """Replace the constant in all modules that have imported it by name, and in all objects that hold it if it can change."""
    old = getattr(owner, name)
    if _took_over(old, value):
        return
    setattr(owner, name, value)
    if isinstance(owner, types.ModuleType):
        for module in list(sys.modules.values()):
            if module is not None and vars(module).get(name) is old:
                setattr(module, name, value)


def _took_over(old: Any, new: Any) -> bool:
    """Make the old object what the new one is. False if objects of this kind do not change."""
    if type(old) is dict and type(new) is dict:
        old.clear()
        old.update(new)
        return True
    if type(old) is type(new) and dataclasses.is_dataclass(old):
        for each in dataclasses.fields(old):
            object.__setattr__(old, each.name, getattr(new, each.name))
        return True
    return False


def _caches() -> list[Any]:
    """The functions of kpsim and of the tests that remember what they returned."""
    modules = [module for name, module in sys.modules.items() if _OURS.match(name)]
    found = [each for module in modules for each in vars(module).values()]
    return list({id(each): each for each in found if isinstance(each, functools._lru_cache_wrapper)}.values())


def _failed(item: pytest.Item, following: pytest.Item | None) -> bool:
    return any(report.failed for report in runtestprotocol(item, log=False, nextitem=following))


def _in_a_fork(work: Callable[[], str], *, limit_s: int) -> str:
    """Return what ``work`` returns in a process of its own, or nothing if that dies or uses too much processor time.

    A process that does not end by the clock, and has not used that time, is undecided.
    """
    sys.stdout.flush()
    read, write = os.pipe()
    if child := os.fork():
        os.close(write)
        with os.fdopen(read) as told:
            text = told.read()
        _, status = os.waitpid(child, 0)
        return "undecided " if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM else text
    try:
        os.close(read)
        os.setsid()  # so that all its children end with it
        resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s))
        signal.setitimer(signal.ITIMER_REAL, _PATIENCE * limit_s)
        text = work()
        with os.fdopen(write, "w") as tell:
            tell.write(text)
    finally:
        os._exit(0)
