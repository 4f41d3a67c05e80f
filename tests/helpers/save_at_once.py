"""Save the same files from 8 threads and 4 processes at once, read them, and kill a saver at times.

python tests/helpers/save_at_once.py FOLDER SECONDS

Each content is of one value throughout, so that half of one and half of another would be found out.
Ends with an error if a save raised, a read was not whole, or a killed saver's leftovers stay.
"""

import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from kill_while_saving import KINDS as TENSORS

from examples.result_files import save_json
from reliability_balance.files import open_atomically, write_atomically

THREADS, PROCESSES = 8, 4
CHUNK = 10_000


def write_stream(path: Path, value: int) -> None:
    with open_atomically(path) as file:
        for _ in range(1 + value % 30):
            file.write(bytes([value % 251]) * CHUNK)


def read_bytes(path: Path) -> bool:
    content = path.read_bytes()
    value = content[0]
    return content == bytes([value]) * len(content) and len(content) % CHUNK == 0


def read_json(path: Path) -> bool:
    return len(set(json.loads(path.read_text(encoding="utf-8")))) == 1


def read_tensors(read: Callable[[Path], list[torch.Tensor]], path: Path) -> bool:
    return len(torch.cat([tensor.detach().flatten() for tensor in read(path)]).unique()) == 1


KINDS: dict[str, tuple[Callable[[Path, int], None], Callable[[Path], bool]]] = {
    "bytes": (lambda path, value: write_atomically(path, bytes([value % 251]) * CHUNK), read_bytes),
    "stream": (write_stream, read_bytes),
    "json": (lambda path, value: save_json(path, [value] * (1 + value % 3000)), read_json),
    **{kind: (write, partial(read_tensors, read)) for kind, (write, read) in TENSORS.items()},
}


def work(folder: Path, until: float, seed: int, counts: Counter[str], *, reads: bool) -> None:
    """Save or read one file after the other, and count what happens."""
    draw = random.Random(seed)
    while time.time() < until:
        kind = draw.choice(list(KINDS))
        write, read = KINDS[kind]
        try:
            if not reads:
                write(folder / kind, draw.randrange(10_000))
                counts["saves"] += 1
            elif read(folder / kind):
                counts["whole reads"] += 1
            else:
                counts[f"fault: {kind} of two saves"] += 1
        except Exception as error:
            counts[f"fault: {'reading' if reads else 'saving'} {kind}: {error!r:.200}"] += 1


def kill_savers(folder: Path, until: float, counts: Counter[str]) -> None:
    """Start a saver, kill it at a random moment, and begin anew."""
    draw = random.Random(0)
    while time.time() < until:
        child = os.fork()
        if child == 0:
            work(folder, until + 3600, draw.randrange(1 << 30), Counter(), reads=False)
        time.sleep(draw.uniform(0, 0.2))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        counts["kills"] += 1


def in_a_process(work: Callable[..., None], *arguments: Any, **options: Any) -> Connection:
    """Begin in a process of its own, which sends its counts when it is through."""
    context = get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def run() -> None:
        counts: Counter[str] = Counter()
        work(*arguments, counts, **options)
        sender.send(counts)

    context.Process(target=run).start()
    sender.close()  # so that the death of the process is an error here
    return receiver


def main(folder: Path, seconds: float) -> None:
    torch.set_num_threads(1)
    for kind, (write, read) in KINDS.items():  # what is imported late, all processes share
        write(folder / kind, 1)
        read(folder / kind)
    until = time.time() + seconds
    # Processes before threads: a fork copies only the thread that calls it.
    processes = [in_a_process(kill_savers, folder, until)]
    processes += [
        in_a_process(work, folder, until, seed, reads=seed == PROCESSES)
        for seed in range(PROCESSES + 1)
    ]
    each_threads = [Counter[str]() for _ in range(THREADS + 1)]
    threads = [
        threading.Thread(
            target=work, args=(folder, until, 100 + seed, own), kwargs={"reads": seed == THREADS}
        )
        for seed, own in enumerate(each_threads)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = sum([*each_threads, *(process.recv() for process in processes)], Counter[str]())
    for kind, (write, read) in KINDS.items():
        write(folder / kind, 1)
        counts["whole reads"] += read(folder / kind)
    names = sorted(each.name for each in folder.iterdir())
    if names != sorted(KINDS):
        counts[f"fault: {names}"] += 1
    print(", ".join(f"{number} {name}" for name, number in counts.items()))
    if any(name.startswith("fault") for name in counts):
        sys.exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
