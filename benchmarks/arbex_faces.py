"""Does the balancer beat its own encoder with plain cross-entropy, on noisy ambiguous faces?

    python benchmarks/arbex_faces.py --seeds 5

For each seed it trains the quick recipe, and the same encoder, data and budget with plain
cross-entropy. Both are evaluated on the same clean test faces: accuracy, and KL to the true
distribution. The seed changes weights, batches, faces and noise. Finished runs are skipped. Writes
`arbex_faces.json` and `arbex_faces.md`.
"""

from pathlib import Path
from typing import Annotated, Any

import typer
from arbex_runs import (
    RESULTS,
    Interval,
    interval,
    intervals_as_plain,
    run_recipe,
    save_results,
    with_seed,
)

from examples.arbex.configuration import load_config, plain_cross_entropy

SCORES = ("accuracy", "macro_f1", "kl", "total_variation", "nll", "ece", "aurc")


def main(
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds, from 0.")] = 5,
    recipe: Annotated[str, typer.Option(help="Recipe to compare with its baseline.")] = "quick",
    overrides: Annotated[list[str] | None, typer.Option("--set", help="section.key=value")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/arbex_faces"),
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
) -> None:
    """Compare corrected predictions, primary predictions and cross-entropy over seeds."""
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
    means = {
        f"{method} {score}": interval([each[method][score] for each in found])
        for method in ("cross_entropy", "primary", "corrected")
        for score in SCORES
    }
    differences = {
        f"corrected - {other} {score}": interval(
            [each["corrected"][score] - each[other][score] for each in found]
        )
        for other in ("cross_entropy", "primary")
        for score in SCORES
    }
    text = format_markdown(means, differences, seeds)
    print(text)
    content = {
        "seeds": found,
        "means": intervals_as_plain(means),
        "paired_differences": intervals_as_plain(differences),
    }
    save_results(results, "arbex_faces", base, content, text)


def format_markdown(
    means: dict[str, Interval], differences: dict[str, Interval], seeds: int
) -> str:
    """Format means and paired differences as a table."""
    lines = [
        "# The balancer against plain cross-entropy, on noisy ambiguous faces",
        "",
        f"Mean over {seeds} seeds and its 95 % interval (Student's t); differences are paired. "
        "Accuracy, F1, total variation, ECE and AURC in percent, KL and NLL in nats.",
        "",
        "| score | cross-entropy | primary | corrected | corrected - cross-entropy "
        "| corrected - primary |",
        "|---|---|---|---|---|---|",
    ]
    for score in SCORES:
        cells = [
            str(means[f"{name} {score}"]) for name in ("cross_entropy", "primary", "corrected")
        ]
        cells += [
            str(differences[f"corrected - {name} {score}"]) for name in ("cross_entropy", "primary")
        ]
        lines.append(f"| {score.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
