"""Many runs, one process per core: each gives one JSON line, and finished runs are skipped."""

import json
import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from examples.result_files import open_result, save_json, save_text

Do = Callable[[Any], dict[str, Any]]


class ResultsError(ValueError):
    """Raised if there is nothing to run or to render, or a file of results is damaged."""


class Plan(NamedTuple):
    """How a question is answered: its runs, and the report on them.

    Attributes:
        do: does one run, in another process; its result must hold the fields of the run.
        runs: named tuples, whose fields are the key of a run.
        report: formats all finished runs, one per row, as Markdown.
        draw: draws them. None: no figure.
        then: returns further runs that depend on the results of the first.
        prepare: is called once before the runs, for what they must not all compute.
    """

    do: Do
    runs: Sequence[tuple[Any, ...]]
    report: Callable[[pd.DataFrame], str]
    draw: Callable[[pd.DataFrame], Figure] | None = None
    then: Callable[[pd.DataFrame], Sequence[tuple[Any, ...]]] | None = None
    prepare: Callable[[], object] | None = None


def answer(name: str, plan: Plan, results: Path, workers: int, render_only: bool) -> str:
    """Do the runs that `results/NAME.jsonl` lacks, render all to `.md` and `.png`; return the text.

    Raises:
        ResultsError: if there is nothing to run, or with `render_only` nothing to render; or if the
            file holds anything but runs of this question.
    """
    path = results / f"{name}.jsonl"
    if not render_only:
        if not plan.runs:
            raise ResultsError("there must be something to run: name a folder of data")
        if plan.prepare is not None:
            plan.prepare()
        run_all(plan.do, plan.runs, path, workers)
        if plan.then is not None:
            run_all(plan.do, plan.then(read_runs(path)), path, workers)
    runs = read_runs(path)
    if runs.empty:
        raise ResultsError(f"{path} must hold runs; run without --render-only first")
    first: Sequence[Any] = plan.runs[:1]
    lacking = [field for run in first for field in run._fields if field not in runs]
    if lacking:
        raise ResultsError(f"{path} must hold runs of {name}; got none with {', '.join(lacking)}")
    text = plan.report(runs)
    save_text(path.with_suffix(".md"), text)
    if plan.draw is not None:
        with open_result(path.with_suffix(".png")) as file:
            plan.draw(runs).savefig(file, format="png")
    return text


def publish(
    path: Path, content: dict[str, Any] | None, report: Callable[[dict[str, Any]], str]
) -> str:
    """Write content as JSON to `path` and its report beside it as Markdown; return the report.

    None renders what is in the file.

    Raises:
        ResultsError: if the file is missing or damaged.
    """
    if content is not None:
        save_json(path, content)
    if not path.is_file():
        raise ResultsError(f"{path} must hold results; run without --render-only first")
    try:
        results = json.loads(_read(path))
    except json.JSONDecodeError as error:
        raise ResultsError(f"{path} must be JSON; got {error}") from error
    text = report(results)
    save_text(path.with_suffix(".md"), text)
    return text


def run_all(do: Do, runs: Iterable[tuple[Any, ...]], path: Path, workers: int) -> None:
    """Do the runs that are not in the file yet, and append their results.

    If a run raises, the ones that have started are finished and stored, no other starts, and the
    error is raised at the end.
    """
    done = _lines(path)
    missing = [run for run in runs if not any(_names(line, run) for line in done)]
    if not missing:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    is_torn = path.is_file() and path.read_bytes()[-1:] not in (b"", b"\n")
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=partial(torch.set_num_threads, 1),
    )
    with pool, path.open("a") as file:
        if is_torn:
            file.write("\n")
        futures = [pool.submit(do, run) for run in missing]
        error: BaseException | None = None
        for future in tqdm(as_completed(futures), total=len(futures), unit="run"):
            if future.cancelled():
                continue
            failure = future.exception()
            if failure is None:
                file.write(json.dumps(future.result()) + "\n")
                file.flush()
            elif error is None:
                error = failure
                for each in futures:
                    each.cancel()
        if error is not None:
            raise error


def read_runs(path: Path) -> pd.DataFrame:
    """Return the finished runs, one per row; a line truncated by a crash is ignored."""
    return pd.DataFrame(_lines(path))


def _lines(path: Path) -> list[dict[str, Any]]:
    lines = []
    for number, line in enumerate(_read(path).splitlines() if path.is_file() else (), 1):
        try:
            run = json.loads(line)
        except json.JSONDecodeError:
            continue
        if not isinstance(run, dict):
            raise ResultsError(f"{path} must hold a run in each line; got {run!r} in line {number}")
        lines.append(run)
    return lines


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ResultsError(f"{path} must be UTF-8; got {error}") from error


def _names(line: dict[str, Any], run: Any) -> bool:
    return all(line.get(name) == value for name, value in run._asdict().items())
