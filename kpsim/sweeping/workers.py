"""Makes the runs of a sweep: in this process, in processes of this machine, or on a Dask cluster.

Whoever computes a run, its figures are the same, so the order in which runs end changes nothing that is reported.
"""

import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

from kpsim.errors import InputError, KpsimError
from kpsim.reports.figures import Figures
from kpsim.sweeping.identity import program
from kpsim.sweeping.runs import Task, figures_of, perform, unpacked

if TYPE_CHECKING:
    from distributed import Client

_ADDRESS = re.compile(r"((tcp|tls|ucx|wss?)://)?[^\s/]+:\d+/?")
_IN_FLIGHT = 4  #: runs that wait at each worker
_CONNECT_S, _ROUND_S, _ROUNDS_WITHOUT_WORKER = 10, 5, 12


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def finished(tasks: Sequence[Task], *, jobs: int, scheduler: str = "") -> Iterator[tuple[Task, Figures]]:
    """Yield each task with its figures as soon as they are there.

    Without ``scheduler``, ``jobs`` processes compute; with one job it is this process.
    """
    if scheduler:
        yield from _on_cluster(tasks, scheduler)
    elif min(jobs, len(tasks)) <= 1:
        for task in tasks:
            yield task, figures_of(task.scenario, task.seed)
    else:
        yield from _in_processes(tasks, min(jobs, len(tasks)))


# ------------------------------------------------------------------------------------------------------------ processes


class Crew:
    """Processes of this machine that compute, until they are dismissed. With one job it is this process."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        if self._pool is not None:
            if failure is None:
                self._pool.shutdown()
            _end(self._pool)

    def results(self, work: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """Yield the number of each call with its result, as soon as it is there. ``work`` is a function of a module."""
        if self._jobs <= 1:
            for number, arguments in enumerate(calls):
                yield number, work(*arguments)
            return
        waiting = iter(enumerate(calls))
        running: dict[Future[Any], int] = {}
        self._pool = pool = self._pool or _begin(self._jobs)

        def submit(count: int) -> None:
            with _without_main():
                for number, arguments in islice(waiting, count):
                    running[pool.submit(work, *arguments)] = number

        try:
            submit(self._jobs * _IN_FLIGHT)
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield running.pop(future), future.result()
                submit(len(done))
        except BrokenProcessPool as error:
            raise KpsimError(
                "a worker process ended before its time, perhaps for want of memory; -j 1 needs least, and a sweep keeps its finished runs"
            ) from error


def _begin(jobs: int) -> ProcessPoolExecutor:
    import multiprocessing

    # a server that has loaded kpsim forks the workers: unlike this process it has neither threads nor open files
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if hasattr(context, "set_forkserver_preload"):
        context.set_forkserver_preload(["kpsim.sweeping.runs", "kpsim.simulation.engine"])
    return ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin_worker)


def _in_processes(tasks: Sequence[Task], jobs: int) -> Iterator[tuple[Task, Figures]]:
    with Crew(jobs) as crew:
        for number, found in crew.results(perform, [(task.scenario, task.seed, program()) for task in tasks]):
            yield tasks[number], unpacked(found)


@contextmanager
def _without_main() -> Iterator[None]:
    """Workers that begin inside the block do not run the program that asked for the sweep: it would sweep, too."""
    main = sys.modules["__main__"]
    held = main.__dict__.get("__spec__"), main.__dict__.get("__file__")
    main.__spec__ = None
    main.__dict__.pop("__file__", None)
    try:
        yield
    finally:
        main.__spec__ = held[0]
        if held[1] is not None:
            main.__file__ = held[1]


def _end(pool: ProcessPoolExecutor) -> None:
    """End the workers, also in the middle of a run: nobody waits for it any longer."""
    workers = list((getattr(pool, "_processes", None) or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in workers:
        process.terminate()


def _begin_worker() -> None:
    """Leave interrupts to the parent, and end when it ends, however it does."""
    import signal
    from multiprocessing import parent_process
    from multiprocessing.connection import wait as wait_for

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:

        def end_with_parent() -> None:
            wait_for([parent.sentinel])
            os._exit(1)

        threading.Thread(target=end_with_parent, daemon=True).start()


# ----------------------------------------------------------------------------------------------------------------- dask


def _on_cluster(tasks: Sequence[Task], address: str) -> Iterator[tuple[Task, Figures]]:
    if not _ADDRESS.fullmatch(address):
        raise InputError(f"--scheduler {address}: expected tcp://HOST:PORT, as the scheduler prints it")
    try:
        from distributed import Client
    except ImportError as error:
        raise InputError("--scheduler needs Dask: pip install 'kpsim[dask]'") from error
    try:
        client = Client(address, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise InputError(f"--scheduler {address}: no Dask scheduler answers there ({error})") from error
    try:
        if not _has_workers(client):
            raise InputError(f"--scheduler {address}: the cluster has no workers")
        yield from _computed(client, tasks)
    finally:
        client.close()


def _has_workers(client: "Client") -> bool:
    return bool(client.scheduler_info(n_workers=-1)["workers"])


def _computed(client: "Client", tasks: Sequence[Task]) -> Iterator[tuple[Task, Figures]]:
    """Yield what the cluster's workers compute. The scheduler gives the run of a worker that is lost to another."""
    from distributed import wait as wait_for

    most = _IN_FLIGHT * max(1, sum(client.nthreads().values()))
    waiting = iter(tasks)
    running: dict[Any, Task] = {}
    alone = 0
    while True:
        for task in islice(waiting, most - len(running)):
            future = client.submit(perform, task.scenario, task.seed, program(), key=f"kpsim-{task.key}", retries=2)
            running[future] = task
        if not running:
            return
        try:
            with client.as_current():
                done = wait_for(list(running), timeout=_ROUND_S, return_when="FIRST_COMPLETED").done
        except TimeoutError:
            alone = 0 if _has_workers(client) else alone + 1
            if alone >= _ROUNDS_WITHOUT_WORKER:
                raise KpsimError("the cluster has had no worker for a minute; finished runs are kept") from None
            continue
        for future in done:
            yield running.pop(future), unpacked(future.result())
