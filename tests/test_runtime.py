"""Scale, device, seeds, clock and memory, with and without a (pretended) GPU."""

import platform
import random
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import kexue_nb
from kexue_nb import runtime


@pytest.fixture
def gpu(monkeypatch):
    """Pretends that torch sees a GPU of 80 GB and capability 9.0; set ``calls`` collects what is asked of it."""
    calls = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: calls.get("capability", (9, 0)))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: SimpleNamespace(total_memory=80 * 2**30))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share: calls.update(share=share))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda d: "a pretended GPU")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.update(synchronized=calls.get("synchronized", 0) + 1))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: calls.update(reset=True))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 2_500_000_000)
    for name in ("KEXUE_SCALE", "KEXUE_GPU_MEMORY_GB", "KEXUE_NO_BF16"):
        monkeypatch.delenv(name, raising=False)
    return calls


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("asked", runtime.SCALES)
def test_scale_is_what_was_asked_for(monkeypatch, asked):
    monkeypatch.setenv("KEXUE_SCALE", asked)
    assert runtime.scale() == asked


@pytest.mark.parametrize("asked", ["CPU", "tpu", " cpu", "1"])
def test_bad_scale(monkeypatch, asked):
    monkeypatch.setenv("KEXUE_SCALE", asked)
    with pytest.raises(ValueError, match=f"KEXUE_SCALE='{asked}': give one of cpu, gpu, full"):
        runtime.scale()


@pytest.mark.parametrize(("there", "wanted"), [(True, "gpu"), (False, "cpu")])
@pytest.mark.parametrize("unset", [True, False])
def test_scale_follows_the_machine(monkeypatch, there, wanted, unset):
    monkeypatch.setenv("KEXUE_SCALE", "")
    if unset:
        monkeypatch.delenv("KEXUE_SCALE")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert runtime.scale() == wanted


@pytest.mark.parametrize("scale", ["gpu", "full"])
def test_no_gpu_for_a_gpu_scale(no_gpu, scale):
    with pytest.raises(RuntimeError, match=f"scale '{scale}' needs a CUDA GPU .* KEXUE_SCALE=cpu"):
        runtime.device(scale)


def test_device(gpu):
    assert runtime.device("cpu") == torch.device("cpu")
    assert runtime.device("gpu") == runtime.device("full") == torch.device("cuda")
    assert "share" not in gpu


def test_the_cpu_on_request(no_gpu, monkeypatch):
    monkeypatch.setenv("KEXUE_DEVICE", "cpu")
    assert runtime.wanted_device("full") == runtime.wanted_device("gpu") == torch.device("cpu")
    monkeypatch.setenv("KEXUE_DEVICE", "cuda:1")
    with pytest.raises(ValueError, match="give cpu"):
        runtime.wanted_device("full")


@pytest.mark.parametrize(("cap", "share"), [("16", 0.2), ("80", 1.0), ("100", 1.0), ("0.8", 0.01)])
def test_memory_cap(gpu, monkeypatch, cap, share):
    monkeypatch.setenv("KEXUE_GPU_MEMORY_GB", cap)
    runtime.device("cpu")
    assert "share" not in gpu
    runtime.device("gpu")
    assert gpu["share"] == pytest.approx(share)


@pytest.mark.parametrize(("capability", "wanted"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_bf16(gpu, monkeypatch, capability, wanted):
    gpu["capability"] = capability
    assert runtime.has_bf16() is wanted
    monkeypatch.setenv("KEXUE_NO_BF16", "1")
    assert runtime.has_bf16() is False


def test_bf16_without_a_gpu(no_gpu, monkeypatch):
    monkeypatch.delenv("KEXUE_NO_BF16", raising=False)
    assert runtime.has_bf16() is False


def test_seed_everything():
    def draws(seed):
        runtime.seed_everything(seed)
        return random.random(), np.random.rand(), torch.rand(()).item()

    first, other = draws(3), draws(4)
    assert draws(3) == first
    assert all(a != b for a, b in zip(first, other, strict=True))
    assert torch.get_num_threads() == runtime.THREADS


def test_names(gpu):
    assert runtime.device_name(torch.device("cuda")) == "a pretended GPU"
    assert runtime.device_name(torch.device("cpu")) == f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    text = runtime.versions()
    assert text.startswith(f"Python {platform.python_version()}, torch {torch.__version__.split('+')[0]}")
    assert f"numpy {np.__version__}" in text
    assert text.endswith((f"kexue_nb {kexue_nb.__version__}", "kexue_nb from the checkout"))


def test_stopwatch():
    with runtime.Stopwatch(torch.device("cpu")) as watch:
        time.sleep(0.05)
    assert 0.05 <= watch.wall_s < 1
    assert watch.peak_mem_gb == pytest.approx(runtime.peak_process_gb(), rel=0.1)
    failing = runtime.Stopwatch(torch.device("cpu"))
    with pytest.raises(KeyError), failing:
        raise KeyError
    assert failing.wall_s > 0


def test_stopwatch_on_a_gpu(gpu):
    with runtime.Stopwatch(torch.device("cuda")) as watch:
        assert gpu == {"synchronized": 1, "reset": True}
    assert (gpu["synchronized"], watch.peak_mem_gb) == (2, 2.5)


@pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc")
def test_peak_memory_of_the_process():
    status = Path("/proc/self/status").read_text()
    wanted = int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9
    assert runtime.peak_process_gb() == pytest.approx(wanted, rel=0.05)
    assert 0 <= runtime.peak_process_gb(children=True) < 10


def test_calibrate_is_a_positive_time():
    start = time.perf_counter()
    seconds = runtime.calibrate()
    assert 0.01 < seconds <= time.perf_counter() - start


def test_graphed_is_the_step_itself_without_a_gpu():
    step = object()
    assert runtime.graphed(step, torch.device("cpu")) is step


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_graphed_steps_equal_plain_steps():
    def trained(wrap):
        device = torch.device("cuda")
        generator = torch.Generator(device).manual_seed(0)
        w = torch.zeros(3, device=device, requires_grad=True)
        adam = torch.optim.Adam([w], lr=0.1, capturable=True)

        def step():
            adam.zero_grad(set_to_none=True)
            (w - torch.randn(3, generator=generator, device=device)).square().sum().backward()
            adam.step()

        advance = wrap(step, device, generator)
        for _ in range(20):
            advance()
        return w.detach().cpu()

    assert torch.allclose(trained(runtime.graphed), trained(lambda step, *_: step), atol=1e-6)
