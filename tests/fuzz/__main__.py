"""Fuzz every reader, and write what became of the inputs to `fuzz.json` and `fuzz.md`.

    python tests/fuzz --inputs 100000
    python tests/fuzz --only "csv table" --first 17 --inputs 1

The second form repeats one input. `--only` from the first input on replaces the row of that target.
Ends with an error if any input crashed, hung, took too much memory, or raised another exception
than the reader documents.
"""

import faulthandler
import json
import platform
import sys
import time
import warnings
from pathlib import Path
from typing import Annotated

ROOT = Path(__file__).resolve().parent.parent.parent
PLACES = (".", "tests", "tests/helpers")
sys.path[:0] = [str(ROOT / place) for place in PLACES]

import torch  # noqa: E402
import typer  # noqa: E402
from fuzz.running import MEMORY, READ, SECONDS, Tally, outcomes_in_a_process  # noqa: E402
from fuzz.targets import TARGETS  # noqa: E402

from examples.result_files import save_json, save_text  # noqa: E402


def main(
    inputs: Annotated[int, typer.Option(min=1, help="In all, or of the one target.")] = 100_000,
    only: Annotated[str | None, typer.Option(help="Name of one target.")] = None,
    first: Annotated[int, typer.Option(min=0, help="Number of the first input.")] = 0,
    results: Annotated[Path, typer.Option()] = ROOT / "benchmarks/results",
) -> None:
    """Spread the inputs evenly over the targets."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    faulthandler.disable()  # a crash is counted, with its input
    chosen = [target for target in TARGETS if only in (None, target.name)]
    share = -(-inputs // len(chosen))
    lines = []
    faults = []
    for target in chosen:
        tally, start = Tally(), time.perf_counter()
        for outcome in outcomes_in_a_process(target, range(first, first + share)):
            tally.add(outcome)
        seconds = time.perf_counter() - start
        faults += [{"target": target.name, **each._asdict()} for each in tally.faults]
        lines.append(
            {
                "target": target.name,
                "inputs": sum(tally.kinds.values()),
                "outcomes": dict(tally.kinds.most_common()),
                "faults": len(tally.faults),
                "seconds": round(seconds, 1),
            }
        )
        print(lines[-1], flush=True)
        for each in tally.faults[:3]:
            print(f"    {each.number}: {each.fault}", flush=True)
    if first == 0:
        file = results / "fuzz.json"
        known = json.loads(file.read_text())["targets"] if only and file.exists() else []
        rows = {line["target"]: line for line in [*known, *lines]}
        report = {
            "machine": f"{platform.machine()}, Python {platform.python_version()}",
            "torch": torch.__version__,
            "limits": {"seconds": SECONDS, "bytes": MEMORY},
            "targets": list(rows.values()),
            "faults": faults,
        }
        save_json(file, report)
        save_text(results / "fuzz.md", format_report(list(rows.values())))
    if faults:
        sys.exit(f"{len(faults)} faults")


def format_report(lines: list[dict]) -> str:
    """A table with a row for each target."""
    total, faults = (sum(line[key] for line in lines) for key in ("inputs", "faults"))
    rows = [
        "# Fuzzing every reader",
        "",
        f"`python tests/fuzz --inputs {total}`: {total:,} damaged files, {faults} faults. Each "
        f"was read, or refused by an exception that the reader documents, within {SECONDS} s and "
        f"{MEMORY >> 30} GiB; a crash, a hang, or any other exception is a fault.",
        "",
        "| reader | inputs | read | refused | faults | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for line in lines:
        kinds = line["outcomes"]
        refused = ", ".join(f"{n} {kind}" for kind, n in kinds.items() if kind != READ) or "none"
        rows.append(
            f"| {line['target']} | {line['inputs']} | {kinds.get(READ, 0)} | {refused} "
            f"| {line['faults']} | {line['seconds']} |"
        )
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    typer.run(main)
