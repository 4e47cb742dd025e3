"""Training on several processes: two under torchrun against one, and a run that stops and goes on against one that does not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from kexue_nb import distributed, nn
from kexue_nb.distributed import World
from kexue_nb.optim import Clipped, StackedAdam, StackedMuon, warmup_cosine

STEPS, STOP, EVERY = 12, 7, 3
ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    """Two processes also where there is one GPU."""
    monkeypatch.setenv("KEXUE_DEVICE", "cpu")


class Stop(Exception):
    """What ends a run in the middle."""


def curve(world, checkpoint=None, stop=None, steps=STEPS):
    """Two language models in float64, Muon and Adam with clipping, on random data with a dropout from a generator of its own."""
    torch.manual_seed(5)
    model = nn.Transformer(nn.Init([0, 1]), vocabulary=11, context=6, d=8, depth=2, heads=2).double()
    matrices = [p for p in model.parameters() if p.ndim == 4]
    others = [p for p in model.parameters() if p.ndim != 4]
    rates = torch.tensor([0.01, 0.02])
    optimizer = Clipped(1.0, StackedMuon(matrices, rates), StackedAdam(others, rates, weight_decay=0.1))
    parallel = world.parallel(model)
    data, noise = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)

    def loss(step):
        if step == stop:
            raise Stop
        ids = torch.randint(11, (1, 4, 7), generator=data).expand(2, -1, -1)
        keep = (torch.rand(1, 4, 6, generator=noise) > 0.1) * torch.rand(()).add(0.5)  # torch's own generator, too
        ids, keep = world.share(ids, 1), world.share(keep.double(), 1)
        logits = parallel(ids[..., :-1], torch.float64)
        entropy = F.cross_entropy(logits.flatten(0, -2), ids[..., 1:].flatten(), reduction="none").view(2, *keep.shape[1:])
        return (entropy * keep).mean((1, 2))

    options = {"checkpoint": checkpoint, "every": EVERY if checkpoint else 0, "generators": [data, noise], "schedule": warmup_cosine}
    return distributed.fit(loss, optimizer, steps, world=world, module=parallel, **options)


def stopped_and_resumed(world, checkpoint):
    with pytest.raises(Stop):
        curve(world, checkpoint, stop=STOP)
    return curve(world, checkpoint)


def script(folder):
    """What each process under torchrun does."""
    with distributed.world() as world:
        whole, resumed = curve(world), stopped_and_resumed(world, Path(folder) / "run.pt")
        everyone = world.gather([world.rank, world.size, whole.tolist(), resumed.tolist()])
        with pytest.raises(ValueError, match="cannot be shared equally by 2"):
            world.share(torch.zeros(3))
        mean = world.mean(torch.tensor([1.0, 4.0 * world.rank], requires_grad=True))
        assert mean.tolist() == [1.0, 2.0]
        assert not mean.requires_grad
        if world.rank == 0:
            (Path(folder) / "curves.json").write_text(json.dumps(everyone))


def test_two_processes_train_as_one(tmp_path):
    """Also: what they resume is what they would have done, bit for bit."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]
    everyone = json.loads((tmp_path / "curves.json").read_text())
    assert [person[:2] for person in everyone] == [[0, 2], [1, 2]]
    alone = curve(ALONE)
    assert (alone[0] - alone[-1]).abs().min() > 1e-3
    for _, _, whole, resumed in everyone:
        torch.testing.assert_close(torch.tensor(whole, dtype=torch.float64), alone, rtol=1e-9, atol=0)
        assert resumed == whole == everyone[0][2]


def test_a_launched_function_trains_as_one_and_may_close_over_what_it_likes():
    scale = 3.0

    def job(world, *arguments):
        return scale * curve(world, *arguments), world.size, world.rank

    (alone, *one), (together, *two) = (distributed.launch(job, n, None, None, 4) for n in (1, 2))
    assert (one, two) == ([1, 0], [2, 0])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=0)
    assert torch.equal(alone, 3 * curve(ALONE, steps=4))


def test_a_process_that_fails_ends_the_others():
    def job(world):
        if world.rank == 1:
            raise KeyError("lost")
        return world.gather(1)  # waits for the other one

    with pytest.raises(KeyError, match="lost"):
        distributed.launch(job, 2)
    with pytest.raises(ValueError, match="processes=0: give at least 1"):
        distributed.launch(job, 0)


def test_more_processes_than_devices_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv("KEXUE_DEVICE", raising=False)
    with pytest.raises(RuntimeError, match="2 processes, but this machine has 1 CUDA devices"):
        distributed.launch(print, 2)


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path):
    whole = curve(ALONE)
    assert torch.equal(stopped_and_resumed(ALONE, tmp_path / "run.pt"), whole)
    state = torch.load(tmp_path / "run.pt")
    assert len(state["curve"]) == STEPS
    assert torch.equal(curve(ALONE, tmp_path / "run.pt", stop=0), whole)  # a finished run trains no more
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]


def test_the_loop_is_that_of_train():
    p, q = (torch.nn.Parameter(torch.tensor([[1.0, 2.0]])) for _ in range(2))
    seen = []
    module = torch.nn.ParameterList([p])
    losses = distributed.fit(
        lambda s: p.square().sum(1) * (1 + s),
        StackedAdam([p], [0.1]),
        4,
        world=ALONE,
        module=module,
        watch=lambda s, x: seen.append((s, float(x))),
    )
    last = distributed.train.fit(lambda s: q.square().sum(1) * (1 + s), StackedAdam([q], [0.1]), 4)
    assert torch.equal(p, q)
    assert torch.equal(losses[-1], last)
    assert seen == [(s, float(x)) for s, x in enumerate(losses)]


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    curve(ALONE, tmp_path / "run.pt", steps=3)
    with pytest.raises(ValueError, match="made with 3 steps, not 12; remove it"):
        curve(ALONE, tmp_path / "run.pt")
    with pytest.raises(ValueError, match="made with 1 processes, not 2"):
        distributed.load(tmp_path / "run.pt", World(0, 2, ALONE.device), None, Clipped(1.0, StackedAdam([torch.zeros(1)], [1.0])), 3, ())
    with pytest.raises(ValueError, match="a checkpoint to write"):
        distributed.fit(lambda s: None, None, 3, world=ALONE, module=None, every=2)


def test_shares_and_means_of_one_process():
    x = torch.arange(6.0).view(2, 3)
    assert torch.equal(World(1, 3, ALONE.device).share(x, 1), x[:, 1:2])
    assert torch.equal(ALONE.share(x), x)
    assert torch.equal(ALONE.mean(x), x)
    assert ALONE.gather(3) == [3]
    module = torch.nn.Linear(1, 1)
    assert ALONE.parallel(module) is module


if __name__ == "__main__":
    script(sys.argv[1])
