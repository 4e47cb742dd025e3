"""Sweeps: every way against a plain loop, failing points, resuming, and a Dask cluster that loses a worker in the middle.

The workers import this file: it leaves torch to the tests that need it.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kexue_nb import sweep as module
from kexue_nb.sweep import Point, SweepFailed, sweep

GRID = {"a": [3, 1, 2], "b": [0.5, -1.0]}
PLAIN = [(3, 0.5), (3, -1.0), (1, 0.5), (1, -1.0), (2, 0.5), (2, -1.0)]


def scaled(a, b=1.0):
    return a * b


def touched(folder, a):
    """Leaves one file a call, so that calls are counted across processes."""
    (Path(folder) / f"{a}-{time.monotonic_ns()}-{os.getpid()}").touch()
    return a * a


def calls(folder):
    return sorted(int(p.name.split("-")[0]) for p in Path(folder).iterdir())


def calls_of(folder):
    def closing(a):
        return folder, a

    return closing


def fragile(folder, a, gone="never"):
    """Fails at a = 2 and ends its process at a = 3, while ``folder`` has no file called ``mended``."""
    if not (Path(folder) / "mended").exists():
        if a == 2:
            raise ZeroDivisionError("a is two")
        if a == 3 and gone == "process":
            os.kill(os.getpid(), signal.SIGKILL)
    return a


def placed(device):
    return str(device)


def solved_where(function, parameters, file, device):
    return Point(parameters, (device, os.environ.get("CUDA_VISIBLE_DEVICES"), os.getpid()))


def wait_for(condition, limit=60.0):
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "the other process never came"
        time.sleep(0.02)


def guarded(shared, a):
    """The first process that has finished three points says who it is and waits in its fourth, to be killed; all calls are counted."""
    shared = Path(shared)
    (shared / "calls" / f"{a}-{time.monotonic_ns()}-{os.getpid()}").touch()
    if len(list((shared / "calls").glob(f"*-{os.getpid()}"))) > 3 and not (shared / "victim").exists():
        (shared / f"{os.getpid()}").write_text(f"{os.getpid()} {a}")
        with contextlib.suppress(FileExistsError):  # the first one only
            os.link(shared / f"{os.getpid()}", shared / "victim")
            wait_for(lambda: False)
    return a * a


def kill_the_victim(shared, finished):
    """Kill the process that waits once ``finished`` points are kept."""
    shared = Path(shared)
    wait_for((shared / "victim").exists)
    wait_for(lambda: len(list((shared / "kept").glob("*.pkl"))) >= finished)
    os.kill(int((shared / "victim").read_text().split()[0]), signal.SIGKILL)


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None, "host": "127.0.0.1"}
    with distributed.LocalCluster(**options) as local:
        yield local


@pytest.mark.parametrize("on", ["serial", "cores"])
def test_every_way_gives_what_a_plain_loop_gives(on):
    points = sweep(scaled, GRID, on=on, progress=False)
    assert [p.result for p in points] == [scaled(a, b) for a, b in PLAIN]
    assert [(p.parameters["a"], p.parameters["b"]) for p in points] == PLAIN


def test_the_environment_chooses_where_nothing_else_does(monkeypatch):
    monkeypatch.setenv("KEXUE_SWEEP", "cores:1")
    elsewhere = sweep(lambda a: (a, os.getpid()), [{"a": a} for a in (5, 4)], progress=False)
    assert [p.result[0] for p in elsewhere] == [5, 4]
    assert {p.result[1] for p in elsewhere}.isdisjoint({os.getpid()})
    assert sweep(os.getpid, [{}], on="serial", progress=False)[0].result == os.getpid()
    monkeypatch.delenv("KEXUE_SWEEP")
    assert sweep(os.getpid, [{}], progress=False)[0].result == os.getpid()


def test_a_dask_cluster_by_its_address_and_by_its_client(cluster, monkeypatch):
    monkeypatch.setenv("KEXUE_SWEEP", cluster.scheduler_address)
    assert [p.result for p in sweep(scaled, GRID, progress=False)] == [scaled(a, b) for a, b in PLAIN]
    with cluster.get_client() as client:
        points = sweep(os.getpid, [{}] * 2, on=client, progress=False)
        with pytest.raises(SweepFailed, match="a is two") as failure:
            sweep(fragile, [{"folder": "none", "a": a} for a in (1, 2, 4)], on=client, progress=False)
    assert os.getpid() not in [p.result for p in points]
    assert [p.result for p in failure.value.points] == [1, None, 4]


def test_a_dask_cluster_loses_a_worker_in_the_middle(cluster, tmp_path):
    (tmp_path / "calls").mkdir()
    grid = [{"shared": str(tmp_path), "a": a} for a in range(16)]
    program = f"import test_sweep; test_sweep.kill_the_victim({str(tmp_path)!r}, 8)"
    killer = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parent)
    points = sweep(guarded, grid, on=cluster.scheduler_address, resume=tmp_path / "kept", progress=False)
    assert killer.wait(60) == 0
    assert [p.result for p in points] == [a * a for a in range(16)]
    victim, lost = (int(x) for x in (tmp_path / "victim").read_text().split())
    assert len(list((tmp_path / "calls").glob(f"*-{victim}"))) == 4
    assert calls(tmp_path / "calls") == sorted([*range(16), lost])  # only what the dead worker had not finished is computed again


@pytest.mark.parametrize(("on", "gone", "lost"), [("serial", "never", [2]), ("cores:1", "process", [2, 3])])
def test_a_failing_point_is_told_and_loses_no_other(on, gone, lost, tmp_path, capfd):
    grid = {"folder": [str(tmp_path)], "a": [1, 2, 3, 4, 5], "gone": [gone]}
    with pytest.raises(SweepFailed) as failure:
        sweep(fragile, grid, on=on, resume=tmp_path / "kept")
    points = failure.value.points
    assert [p.parameters["a"] for p in points if p.error] == lost
    assert [p.result for p in points] == [None if a in lost else a for a in (1, 2, 3, 4, 5)]
    told = str(failure.value)
    assert f"{len(lost)} of 5 points failed" in told
    assert "'a': 2" in told
    assert "Traceback" in told
    assert "ZeroDivisionError: a is two" in told
    assert f"{len(lost)} failed" in capfd.readouterr().err  # the progress bar says so, too
    (tmp_path / "mended").touch()
    again = sweep(fragile, grid, on=on, resume=tmp_path / "kept", progress=False)
    assert [p.result for p in again] == [1, 2, 3, 4, 5]
    assert [p.parameters["a"] for p in again if not p.resumed] == lost


def interrupted(folder, a):
    if a == 3 and not (Path(folder).parent / "mended").exists():
        raise KeyboardInterrupt
    return touched(folder, a)


def test_an_interrupted_sweep_goes_on_where_it_was(tmp_path):
    (tmp_path / "calls").mkdir()
    grid = [{"folder": str(tmp_path / "calls"), "a": a} for a in range(6)]
    with pytest.raises(KeyboardInterrupt):
        sweep(interrupted, grid, on="serial", resume=tmp_path / "kept", progress=False)
    assert calls(tmp_path / "calls") == [0, 1, 2]
    (tmp_path / "mended").touch()
    points = sweep(interrupted, grid, on="cores:2", resume=tmp_path / "kept", progress=False)
    assert [p.result for p in points] == [a * a for a in range(6)]
    assert [p.resumed for p in points] == [True] * 3 + [False] * 3
    assert calls(tmp_path / "calls") == list(range(6))
    assert len(list((tmp_path / "kept").iterdir())) == 6


def test_the_process_that_computes_a_point_keeps_it(tmp_path):
    (tmp_path / "calls").mkdir()
    point = {"folder": str(tmp_path / "calls"), "a": 4}
    first, second = (module._solve(touched, point, tmp_path / "point.pkl") for _ in range(2))
    assert (first.result, first.resumed) == (16, False)
    assert (second.result, second.resumed) == (16, True)
    assert calls(tmp_path / "calls") == [4]
    elsewhere = tmp_path / "nowhere" / "point.pkl"  # a machine that does not see the folder
    assert module._solve(touched, point, elsewhere).result == 16
    assert not elsewhere.exists()


def test_what_no_worker_keeps_the_sweep_does(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_solve", lambda function, parameters, file: Point(parameters, function(**parameters)))
    for expected in (False, True):
        points = sweep(scaled, [{"a": 3}], on="serial", resume=tmp_path, progress=False)
        assert [(p.result, p.resumed) for p in points] == [(3, expected)]


def test_what_was_kept_belongs_to_a_source_its_defaults_and_parameters(tmp_path):
    def first(a, b=1):
        return a + b

    def second(a, b=1):
        return a - b

    def resumed(function, **point):
        return sweep(function, [point], on="serial", resume=tmp_path, progress=False)[0].resumed

    assert not resumed(first, a=1)
    assert resumed(first, a=1)
    assert not resumed(first, a=2)
    assert not resumed(second, a=1)
    first.__defaults__ = (2,)
    assert not resumed(first, a=1)
    second.__name__ = "first"
    assert resumed(first, a=1)
    assert not resumed(second, a=1)
    for unknown in (lambda a: a, resumed.__get__(1), calls_of(tmp_path), os.getpid):
        with pytest.raises(ValueError, match="closes over nothing"):
            resumed(unknown, a=1)


def test_each_gpu_has_one_process_that_sees_it_alone(monkeypatch):
    monkeypatch.setattr(module, "_gpus", lambda: ["0", "GPU-b"])
    monkeypatch.setattr(module, "_solve", solved_where)
    owners = {p.result for p in sweep(placed, [{}] * 6, on="gpus", progress=False)}
    assert {(device, name) for device, name, _ in owners} <= {("cuda:0", "0"), ("cuda:0", "GPU-b")}
    assert len(owners) == len({name for _, name, _ in owners})


def test_a_function_is_given_its_device(monkeypatch):
    monkeypatch.setenv("KEXUE_SCALE", "cpu")
    assert module._solve(placed, {}, None, "cuda:0").result == "cuda:0"
    assert sweep(placed, [{}], on="serial", progress=False)[0].result == "cpu"
    assert sweep(placed, [{"device": "mine"}], on="serial", progress=False)[0].result == "mine"


def test_the_gpus_of_a_machine(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert module._gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 1")
    assert module._gpus() == ["3", "1"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(RuntimeError, match="needs a CUDA GPU"):
        sweep(scaled, GRID, on="gpus")


@pytest.mark.parametrize("bad", ["cores:0", "cores:x", "core", "cores4", "serial:2", "localhost"])
def test_a_setting_that_there_is_not(bad):
    with pytest.raises(ValueError, match=r"give serial, cores, cores:4, gpus"):
        sweep(scaled, GRID, on=bad)


def test_an_empty_grid():
    assert sweep(scaled, [], on="serial", progress=False) == sweep(scaled, [], on="cores", progress=False) == []


def threads():
    return os.environ["OMP_NUM_THREADS"]


def test_cores_are_shared_between_processes():
    import joblib

    cores = joblib.cpu_count()
    assert [p.result for p in sweep(threads, [{}], on=f"cores:{cores}")] == ["1"]
    assert [p.result for p in sweep(threads, [{}], on="cores:1")] == [str(cores)]


def test_a_failed_point_took_as_long_as_it_took():
    start = time.monotonic()
    with pytest.raises(SweepFailed) as failed:
        sweep(fragile, [{"folder": "nowhere", "a": 2}], progress=False)
    assert 0 <= failed.value.points[0].seconds <= time.monotonic() - start


def test_a_point_took_as_long_as_it_took():
    start = time.monotonic()
    (point,) = sweep(scaled, [{"a": 1.0}], on="serial", progress=False)
    assert 0 <= point.seconds <= time.monotonic() - start


def test_the_bar_counts_every_point(monkeypatch, tmp_path):
    import tqdm

    made = []
    monkeypatch.setattr(tqdm, "tqdm", lambda **options: made.append(options) or real(**options | {"disable": True}))
    real = tqdm.std.tqdm
    for _ in range(2):
        sweep(touched, {"folder": [str(tmp_path)], "a": [1, 2, 3]}, resume=tmp_path / "kept")
    assert [(m["total"], m["initial"]) for m in made] == [(3, 0), (3, 3)]
