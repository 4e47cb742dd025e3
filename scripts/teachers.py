"""Train the two teachers of the diffusion notebooks and keep their weights: python scripts/teachers.py [--only NAME] [--steps N].

On one H100 two to three minutes for both. On a CPU use fewer steps (2,000 for digits8 take some minutes on two cores) and another
--folder, or worse weights replace the recorded ones.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from kexue_nb import data, diffusion, metrics, records, runtime

SEED = 0
BATCH = 256
# digits8 has 1,200 pictures and overfits. Loss on its test pictures after 2,500, 4,000, 6,000, 9,000 and 20,000 steps:
# 0.096, 0.085, 0.085, 0.090, 0.116.
STEPS = {"digits8": 6_000, "mnist28": 20_000}


def train(name: str, steps: int, device: torch.device) -> tuple[dict[str, np.ndarray], dict]:
    """Weights in float16, and the report that tells how they were made and how good they are."""
    pictures = data.pictures(name).to(device)
    sigmas = diffusion.su_schedule().sigma[1:]
    torch.manual_seed(SEED)
    net, classifier = (module.to(device) for module in diffusion.build_teacher(name))
    begin = time.perf_counter()
    diffusion.train_denoiser(net, pictures.train, sigmas, steps=steps, batch=BATCH, seed=SEED)
    seconds = time.perf_counter() - begin
    diffusion.train_classifier(classifier, pictures, seed=SEED)
    for module in (net, classifier):
        module.half().float().eval().requires_grad_(False)
    accuracy = float((classifier(pictures.test).argmax(1) == pictures.test_labels).double().mean())
    eps = diffusion.noise_predictor(net)
    # the mean over t = 1, 11, ..., 991
    loss = {part: float(diffusion.denoising_loss(eps, getattr(pictures, part), sigmas[::10], SEED).mean()) for part in ("train", "test")}
    features = {part: classifier.features(getattr(pictures, part)) for part in ("train", "test")}
    report = {
        "name": name,
        "parameters": sum(p.numel() for p in net.parameters()),
        "steps": steps,
        "batch": BATCH,
        "seed": SEED,
        "device": runtime.device_name(device),
        "torch": torch.__version__,
        "date": records.today(),
        "train_seconds": round(seconds, 1),
        "train_loss": round(loss["train"], 5),
        "test_loss": round(loss["test"], 5),
        "classifier_accuracy": round(accuracy, 4),
        "frechet_train_test": round(metrics.frechet(features["train"], features["test"]), 4),
    }
    parts = {"net": net, "classifier": classifier}
    return {f"{p}.{k}": v.cpu().numpy().astype(np.float16) for p, module in parts.items() for k, v in module.state_dict().items()}, report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=sorted(diffusion.TEACHERS))
    parser.add_argument("--steps", type=int, help="instead of " + ", ".join(f"{n:,} for {name}" for name, n in STEPS.items()))
    parser.add_argument("--folder", type=Path, default=Path(diffusion.__file__).parent / "teachers")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in [options.only] if options.only else diffusion.TEACHERS:
        weights, report = train(name, options.steps or STEPS[name], device)
        np.savez_compressed(options.folder / f"{name}.npz", **weights)
        (options.folder / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(json.dumps(report))


if __name__ == "__main__":
    main()
