"""A grid of independent runs on one core, on all cores, on several GPUs of one machine, or on a Dask cluster: one setting says where.

The setting is ``on=`` or the environment variable ``KEXUE_SWEEP``:

- ``serial`` (the default): one after another in this process;
- ``cores`` or ``cores:4``: in as many processes as there are cores, or in four;
- ``gpus``: one process for each CUDA device of this machine, which sees that device alone;
- ``tcp://host:port``: a Dask scheduler's address (a dask-jobqueue cluster has one, too), or in ``on=`` a ``distributed.Client``.
  Its workers need this package.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import os
import queue
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kexue_nb import records, runtime

Task = tuple[Callable, dict, Path | None]  # what to call, with what, and the file that keeps the point


@dataclass(frozen=True)
class Point:
    """The parameters of one point with what came out, or the traceback as ``error``; ``resumed`` where it was read from its file."""

    parameters: dict
    result: Any = None
    error: str = ""
    seconds: float = 0.0
    resumed: bool = False


class SweepFailed(RuntimeError):
    """Some points failed. ``points`` holds all of them in the grid's order, the finished ones with their results."""

    def __init__(self, points: list[Point]):
        self.points = points
        failed = [p for p in points if p.error]
        told = "\n".join(f"--- at {p.parameters}\n{p.error.strip()}" for p in failed[:5])
        more = f"\n... and {len(failed) - 5} more" if len(failed) > 5 else ""
        super().__init__(f"{len(failed)} of {len(points)} points failed; the others' results are in this error's `points`\n{told}{more}")


def sweep(
    function: Callable,
    grid: Iterable[Mapping] | Mapping[str, Iterable],
    *,
    on: Any = None,
    resume: str | os.PathLike | None = None,
    progress: bool = True,
) -> list[Point]:
    """Run ``function(**point)`` for every point of ``grid`` and return the points in the grid's order.

    ``grid``: a list of dicts, or a dict of lists, whose product is taken (the last varies fastest). A function with a parameter ``device``
    that the grid leaves open is given the torch device of its process. A point that fails, or whose process dies, does not stop the
    others; SweepFailed is raised at the end and holds them all.

    ``resume`` names a folder that keeps each finished point in a file as soon as it is finished, so that a sweep that was interrupted
    goes on from there. A point is known by its parameters, the function's source and defaults, and the source of what it reaches in its
    own module and in this package; constants that it reads are not looked at. Keep only folders that you trust: they hold pickles. On a
    cluster the folder is best a shared one: without it a point is safe when its result has reached this process.
    """
    points = _points(grid)
    on = os.environ.get("KEXUE_SWEEP") or "serial" if on is None else on
    run = _way(on)
    folder = _folder(function, resume)
    tasks = [(function, point, folder and folder / f"{_key(function, point)}.pkl") for point in points]
    kept = {i: _load(file) for i, (_, _, file) in enumerate(tasks) if file and file.exists()}
    done = _run(run, {i: task for i, task in enumerate(tasks) if i not in kept}, kept, progress)
    ordered = [done[i] for i in range(len(points))]
    if any(p.error for p in ordered):
        raise SweepFailed(ordered)
    return ordered


def _points(grid: Iterable[Mapping] | Mapping[str, Iterable]) -> list[dict]:
    if isinstance(grid, Mapping):
        return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    return [dict(point) for point in grid]


def _run(run: Callable, waiting: dict[int, Task], kept: dict[int, Point], progress: bool) -> dict[int, Point]:
    from tqdm import tqdm

    done, failed = dict(kept), 0
    bar = tqdm(total=len(waiting) + len(kept), initial=len(kept), unit="point", disable=not progress)
    with bar, contextlib.closing(run(waiting)) as finished:
        for i, point in finished:
            file = waiting[i][2]
            if file and not point.error and not file.exists():  # a worker without the folder leaves the keeping to us
                _keep(file, point)
            done[i], failed = point, failed + bool(point.error)
            bar.update()
            if failed:
                bar.set_postfix_str(f"{failed} failed")
    return done


# One point


def _solve(function: Callable, parameters: dict, file: Path | None, device: str = "") -> Point:
    """Compute a point where it is not kept yet, and keep it."""
    if file and file.exists():
        return _load(file)
    start = time.perf_counter()
    try:
        point = Point(parameters, function(**parameters, **_device(function, parameters, device)))
    except Exception:
        return Point(parameters, error=traceback.format_exc(), seconds=time.perf_counter() - start)
    point = replace(point, seconds=time.perf_counter() - start)
    if file and file.parent.exists():
        _keep(file, point)
    return point


def _device(function: Callable, parameters: dict, device: str) -> dict:
    if "device" in parameters or "device" not in inspect.signature(function).parameters:
        return {}
    import torch

    return {"device": torch.device(device) if device else runtime.wanted_device(runtime.scale())}


# What is kept


def _folder(function: Callable, resume: str | os.PathLike | None) -> Path | None:
    if resume is None:
        return None
    if not inspect.isfunction(function) or function.__closure__ or function.__name__ == "<lambda>":
        raise ValueError("a sweep resumes a function that was defined by `def` and closes over nothing: its source says what it computes")
    folder = Path(resume).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _key(function: Callable, parameters: dict) -> str:
    import joblib

    return joblib.hash((records.code_sha256(function), function.__name__, function.__defaults__, function.__kwdefaults__, parameters))


def _keep(file: Path, point: Point) -> None:
    import joblib

    part = file.with_suffix(f".{uuid.uuid4().hex}.part")
    joblib.dump(point, part)
    os.replace(part, file)


def _load(file: Path) -> Point:
    import joblib

    return replace(joblib.load(file), resumed=True)


# Where it runs


def _way(on: Any) -> Callable[[dict[int, Task]], Iterator[tuple[int, Point]]]:
    """The generator of (number, point) that a setting stands for. Raises ValueError for a setting that there is not."""
    if not isinstance(on, str):
        return lambda tasks: _dask(tasks, on)
    if on == "serial":
        return _serial
    if on == "gpus":
        names = _gpus()
        return lambda tasks: _lanes(tasks, [(_alone(name), "cuda:0") for name in names])
    kind, _, count = on.partition(":")
    if kind == "cores" and (on == "cores" or (count.isdecimal() and int(count))):
        return lambda tasks: _cores(tasks, int(count or 0))
    if "://" in on:
        return lambda tasks: _dask_at(tasks, on)
    raise ValueError(f"KEXUE_SWEEP or on={on!r}: give serial, cores, cores:4, gpus, or a Dask scheduler's address such as tcp://host:8786")


def _serial(tasks: dict[int, Task]) -> Iterator[tuple[int, Point]]:
    for i, task in tasks.items():
        yield i, _solve(*task)


def _cores(tasks: dict[int, Task], count: int) -> Iterator[tuple[int, Point]]:
    import joblib

    cores = joblib.cpu_count()
    count = count or cores
    threads = str(max(1, cores // count))
    return _lanes(tasks, [({"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"}, "")] * count)


def _gpus() -> list[str]:
    """The CUDA devices of this machine, by the names that CUDA_VISIBLE_DEVICES takes."""
    import torch

    count = torch.cuda.device_count()
    if not count:
        raise RuntimeError("a sweep on gpus needs a CUDA GPU and torch sees none; use serial or cores")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return [name.strip() for name in visible.split(",")][:count] if visible else [str(i) for i in range(count)]


def _alone(name: str) -> dict[str, str]:
    return {"CUDA_VISIBLE_DEVICES": name}


def _lanes(tasks: dict[int, Task], settings: list[tuple[dict, str]]) -> Iterator[tuple[int, Point]]:
    """Each lane is one process with an environment and a device; a lane whose process dies loses one point and gets a new process."""
    from joblib.externals import loky

    def open_lane(environment: dict):
        return loky.ProcessPoolExecutor(max_workers=1, env=environment)

    lanes = [[open_lane(environment), environment, device] for environment, device in settings[: len(tasks)]]
    free: queue.SimpleQueue = queue.SimpleQueue()
    for lane in lanes:
        free.put(lane)

    def advance(task: Task) -> Point:
        lane = free.get()
        try:
            return lane[0].submit(_solve, *task, lane[2]).result()
        except Exception:  # what the function raises comes back in its point: this is a dead process, or a result that has no pickle
            lane[0] = open_lane(lane[1])
            return Point(task[1], error=traceback.format_exc())
        finally:
            free.put(lane)

    threads = ThreadPoolExecutor(max(1, len(lanes)))
    try:
        futures = {threads.submit(advance, task): i for i, task in tasks.items()}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for lane in lanes:
            lane[0].shutdown(kill_workers=True)


def _dask_at(tasks: dict[int, Task], address: str) -> Iterator[tuple[int, Point]]:
    try:
        from distributed import Client
    except ImportError:
        raise ImportError("a sweep on a Dask cluster needs the package distributed: pip install 'kexue_nb[cluster]'") from None
    with Client(address) as client:
        yield from _dask(tasks, client)


def _dask(tasks: dict[int, Task], client: Any) -> Iterator[tuple[int, Point]]:
    """Dask itself gives the unfinished points of a worker that dies to another one."""
    from distributed import as_completed

    futures = {client.submit(_solve, *task, pure=False): i for i, task in tasks.items()}
    waiting = set(futures)
    try:
        for future in as_completed(futures):
            i = futures[future]
            try:
                point = future.result()
            except Exception:  # the scheduler gave the point up: it killed several workers, or the cluster is gone
                point = Point(tasks[i][1], error=traceback.format_exc())
            waiting.remove(future)
            future.release()  # a result that is here need not be computed again when its worker dies
            yield i, point
    finally:
        client.cancel(list(waiting))
