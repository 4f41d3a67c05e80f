"""Many runs, one process per core: each gives one JSON line, and finished runs are skipped."""

import fcntl
import json
import multiprocessing
import reprlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

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
        run: the named tuple whose fields are the key of a run; they are strings and numbers.
        do: does one run, in another process; its result must hold the fields of the run.
        runs: those to do.
        report: formats all finished runs, one per row, as Markdown.
        draw: draws them. None: no figure.
        then: returns further runs that depend on the results of the first.
        prepare: is called once before the runs, for what they must not all compute.
    """

    run: type[Any]
    do: Do
    runs: Sequence[tuple[Any, ...]]
    report: Callable[[pd.DataFrame], str]
    draw: Callable[[pd.DataFrame], Figure] | None = None
    then: Callable[[pd.DataFrame], Sequence[tuple[Any, ...]]] | None = None
    prepare: Callable[[], object] | None = None


def answer(name: str, plan: Plan, results: Path, workers: int, render_only: bool) -> str:
    """Do the runs that `results/NAME.jsonl` lacks, render all to `.md` and `.png`; return the text.

    Raises:
        ResultsError: if there is nothing to run, or with `render_only` nothing to render; if
            another process adds runs to the file; or if a line of it is damaged.
    """
    path = results / f"{name}.jsonl"
    if not render_only:
        if not plan.runs:
            raise ResultsError("there must be something to run: name a folder of data")
        if plan.prepare is not None:
            plan.prepare()
        run_all(plan.do, plan.runs, path, workers)
        if plan.then is not None:
            run_all(plan.do, plan.then(read_runs(path, plan.run)), path, workers)
    runs = read_runs(path, plan.run)
    if runs.empty:
        raise ResultsError(f"{path} must hold runs; run without --render-only first")
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
        results = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ResultsError(f"{path} must be JSON; got {error}") from error
    text = report(results)
    save_text(path.with_suffix(".md"), text)
    return text


def run_all(do: Do, runs: Sequence[tuple[Any, ...]], path: Path, workers: int) -> None:
    """Do the runs that are not in the file yet, and append their results.

    If a run raises, the ones that have started are finished and stored, no other starts, and the
    error is raised at the end.

    Raises:
        ResultsError: if another process adds runs to the file, or a line of it is damaged.
    """
    if not runs:
        return
    with _only_writer(path) as file:
        done = _lines(path, type(runs[0]))
        missing = [run for run in dict.fromkeys(runs) if run not in done]
        if not missing:
            return
        _end_last_line(file)
        pool = ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=partial(torch.set_num_threads, 1),
        )
        with pool, tqdm(total=len(missing), unit="run") as bar:
            # No more than the workers take at once: the pool cannot cancel what it has fetched.
            waiting = iter(missing)
            running = {pool.submit(do, run) for run in islice(waiting, workers)}
            error: BaseException | None = None
            while running:
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    failure = future.exception()
                    if failure is None:
                        file.write(json.dumps(future.result()).encode() + b"\n")
                        file.flush()
                    error = error or failure
                    bar.update()
                if error is None:
                    running |= {pool.submit(do, run) for run in islice(waiting, len(ended))}
        if error is not None:
            raise error


def read_runs(path: Path, run: type[Any]) -> pd.DataFrame:
    """Return the finished runs, one per row; a last line truncated by a crash is ignored.

    Args:
        path: a file with a run in each line, which need not exist.
        run: the named tuple whose fields are the key of a run.

    Raises:
        ResultsError: if a line is damaged or lacks key or values, or two are of the same run.
    """
    return pd.DataFrame(list(_lines(path, run).values()))


def _lines(path: Path, run: type[Any]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Return the content of each line by its key."""
    *lines, last = path.read_bytes().split(b"\n") if path.is_file() else [b""]
    if _is_json(last):
        lines.append(last)
    content: dict[tuple[Any, ...], dict[str, Any]] = {}
    places: dict[tuple[Any, ...], int] = {}
    for number, line in enumerate(lines, 1):
        row = _row(path, line, number)
        key = tuple(row.get(field) for field in run._fields)
        pairs = zip(run._fields, key, strict=True)
        if lacking := [field for field, value in pairs if not isinstance(value, str | int | float)]:
            raise ResultsError(
                f"{path} must hold runs of {path.stem}; got none with {', '.join(lacking)} in "
                f"line {number}"
            )
        if len(row) == len(key):
            raise ResultsError(f"{path} must hold values of each run; got none in line {number}")
        if key in places:
            raise ResultsError(
                f"{path} must hold each run once; got {key} in lines {places[key]} and {number}"
            )
        content[key], places[key] = row, number
    return content


def _row(path: Path, line: bytes, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise ResultsError(f"{path} must be UTF-8; got {error} in line {number}") from error
    except (ValueError, RecursionError):
        row = line
    if not isinstance(row, dict):
        raise ResultsError(
            f"{path} must hold a run in each line; got {reprlib.repr(row)} in line {number}"
        )
    return row


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line.decode())
    except (ValueError, RecursionError):
        return False
    return True


@contextmanager
def _only_writer(path: Path) -> Iterator[BinaryIO]:
    """Open a file for appending, locked until it is closed, even if the process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ResultsError(
                f"{path} must have one writer; another process adds runs to it: wait for it, or "
                "choose another --results"
            ) from None
        yield file


def _end_last_line(file: BinaryIO) -> None:
    """Complete the last line if it is a whole one without its end, or else remove it."""
    file.seek(0)
    content = file.read()
    last = content.rpartition(b"\n")[2]
    if _is_json(last):
        file.write(b"\n")
    else:
        file.truncate(len(content) - len(last))
