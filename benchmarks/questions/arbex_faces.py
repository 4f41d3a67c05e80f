"""Does the balancer improve on its own encoder on rendered faces with noisy ambiguous labels?

For each seed the application trains the quick recipe, and the same encoder, data and budget with
plain cross-entropy. Corrected and primary predictions and cross-entropy are judged on the same
clean test faces: accuracy, calibration, and KL to the true distribution. The seed changes weights,
batches, faces and noise. Finished runs are skipped.
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.application import how, provenance, run_recipe, with_seed
from benchmarks.options import RESULTS, Overrides, RenderOnly, Results, Seeds
from benchmarks.runs import publish
from benchmarks.tables import interval, markdown, page
from examples.arbex.configuration import load_config, plain_cross_entropy

SCORES = ("accuracy", "macro_f1", "kl", "total_variation", "nll", "ece", "aurc")


def main(
    seeds: Seeds = 5,
    recipe: Annotated[str, typer.Option(help="Recipe to compare with its baseline.")] = "quick",
    overrides: Overrides = None,
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/arbex_faces"),
    results: Results = RESULTS,
    render_only: RenderOnly = False,
) -> None:
    """Compare corrected predictions, primary predictions and cross-entropy over seeds."""
    content = None
    if not render_only:
        base = load_config(recipe, overrides or ())
        found: list[dict[str, Any]] = []
        for seed in range(seeds):
            seeded = with_seed(base, seed)
            balanced = run_recipe(seeded, runs / f"balanced-{seed}")
            plain = run_recipe(plain_cross_entropy(seeded), runs / f"cross_entropy-{seed}")
            found.append(
                {
                    "seed": seed,
                    "corrected": balanced["corrected"],
                    "primary": balanced["primary"],
                    "cross_entropy": plain["corrected"],
                    "attainable_accuracy": balanced["attainable_accuracy"],
                }
            )
        content = {**how(base), "seeds": found}
    print(publish(results / "arbex_faces.json", content, report))


def report(content: dict[str, Any]) -> str:
    """Format means and paired differences."""

    def values(method: str, score: str) -> np.ndarray:
        return np.array([each[method][score] for each in content["seeds"]])

    rows = []
    for score in SCORES:
        plain, primary, corrected = (
            values(name, score) for name in ("cross_entropy", "primary", "corrected")
        )
        columns = (plain, primary, corrected, corrected - plain, corrected - primary)
        rows.append([score.replace("_", " "), *(limits(column) for column in columns)])
    heads = ("cross-entropy", "primary", "corrected")
    differences = [f"corrected - {name}" for name in heads[:2]]
    return page(
        "The balancer against plain cross-entropy, on noisy ambiguous faces",
        f"Mean over {len(content['seeds'])} seeds and its 95 % interval (Student's t); differences "
        "are paired. Accuracy, F1, total variation, ECE and AURC in percent, KL and NLL in nats.",
        markdown(["score", *heads, *differences], rows),
        provenance(content),
    )


def limits(values: np.ndarray) -> str:
    """Format a mean with the limits of its interval."""
    mean, half = interval(values)
    return f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]"
