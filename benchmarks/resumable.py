"""Many runs, one process per core: each gives one JSON line, and finished runs are skipped."""

import json
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tqdm import tqdm

RunT = TypeVar("RunT", bound=NamedTuple)


def run_all(
    do: Callable[[RunT], dict[str, Any]], runs: Sequence[RunT], path: Path, workers: int
) -> None:
    """Do the runs that are not in the file yet, and append their results.

    The fields of a run are its key; `do` must put them into its result. If a run raises, the ones
    that have started are finished and stored, no other starts, and the error is raised at the end.
    """
    done = read_lines(path)
    missing = [run for run in runs if not any(_names(line, run) for line in done)]
    path.parent.mkdir(parents=True, exist_ok=True)
    is_torn = path.is_file() and path.read_bytes()[-1:] not in (b"", b"\n")
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn) as pool, path.open("a") as file:
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


def read_lines(path: Path, **wanted: Any) -> list[dict[str, Any]]:
    """Return the finished runs with these fields; a line truncated by a crash is ignored."""
    if not path.is_file():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return [line for line in lines if wanted.items() <= line.items()]


def _names(line: dict[str, Any], run: NamedTuple) -> bool:
    return all(line.get(name) == value for name, value in run._asdict().items())
