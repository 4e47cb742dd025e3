"""Samplers of diffusion models beside the schedulers of diffusers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.paired import Case, Row
from kexue_nb import diffusion
from kexue_nb.unet import UNet

SCHEDULE = diffusion.su_schedule()


def predictors(kind: str) -> Callable[[Tensor, Tensor | float], Tensor]:
    """ "nothing": half the noisy state, so that the time is the sampler's own; "U-Net": the untrained network of the digits teacher."""
    if kind == "nothing":
        return lambda x, sigma: 0.5 * diffusion.to_vp(x, sigma)
    torch.manual_seed(0)
    net: UNet = diffusion.build_teacher("digits8")[0].eval()
    return torch.no_grad()(diffusion.noise_predictor(net))


def sampling(device: torch.device, sampler: str, kind: str) -> Iterator[Case]:
    """64 pictures of 8 x 8, 10 to 100 steps (to 50 with the U-Net), float32."""
    try:
        import diffusers
    except ImportError:
        raise ImportError("this row compares with the package diffusers: pip install diffusers") from None
    betas = (SCHEDULE.beta[1:] ** 2).numpy()
    common = {"num_train_timesteps": 1000, "trained_betas": betas, "timestep_spacing": "trailing"}
    eps = predictors(kind)
    for steps in (10, 50, 100) if kind == "nothing" else (10, 20, 50):
        if sampler == "ddim":
            scheduler = diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=True, **common)
            ours = diffusion.ddim
        else:
            scheduler = diffusers.DPMSolverMultistepScheduler(
                algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type="zero", **common
            )
            ours = diffusion.dpmpp_2m
        sigmas = SCHEDULE.nodes(diffusion.linear_taus(1000, steps)).float()
        z = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(steps))

        def own(ours=ours, sigmas=sigmas, z=z) -> Tensor:
            return diffusion.endpoint(ours(eps, sigmas, diffusion.from_vp(z, sigmas[0])))

        def theirs(scheduler=scheduler, steps=steps, sigmas=sigmas, z=z) -> Tensor:
            scheduler.set_timesteps(steps)
            for sigma, t in zip(sigmas, scheduler.timesteps, strict=False):
                z = scheduler.step(eps(diffusion.from_vp(z, sigma), sigma), t, z).prev_sample
            return z

        yield Case(steps, torch.no_grad()(own), {type(scheduler).__name__: torch.no_grad()(theirs)}, moved=2 * z.nbytes * steps)


NAMES = {"ddim": "DDIM", "dpmpp": "DPM-Solver++(2M)"}
NOTE = (
    "A scheduler's step looks up its place in the schedule, checks what it is given and wraps its answer; ours are the few formulas in a "
    "generator. Both are Python, so the difference is a fixed time a step. "
)

ROWS = [
    Row(
        f"{sampler}-{kind.lower().replace('-', '')}",
        f"{NAMES[sampler]}, {'the sampler alone' if kind == 'nothing' else 'with a small U-Net'}",
        "steps",
        1e-3,
        partial(sampling, sampler=sampler, kind=kind),
        NOTE + ("The predictor does next to nothing here." if kind == "nothing" else "A network of any size takes nearly all of the time."),
        devices=("cpu",),
    )
    for sampler in NAMES
    for kind in ("nothing", "U-Net")
]
