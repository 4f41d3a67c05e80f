"""Run a target over many inputs: each must be read, or refused by a documented exception."""

import random
import resource
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from fuzz.mutations import mutate

SECONDS = 10  # of the processor that one input may take
WALL_SECONDS = 60  # for what waits without working; other load on the machine must not count
MEMORY = 2 << 30  # bytes that reading may take beside what is there before
SHARED_MEMORY = Path("/dev/shm")
READ = "read"

Read = Callable[[bytes], object]


@dataclass(frozen=True)
class Target:
    """A reader under test.

    `prepare` is given a folder and returns the valid samples, and what reads the mutated ones. A
    message names the file, or begins with one of `beginnings`.
    """

    name: str
    prepare: Callable[[Path], tuple[Sequence[bytes], Read]]
    documented: tuple[type[Exception], ...] = (ValueError, FileNotFoundError)
    beginnings: tuple[str, ...] = ("`",)


class Outcome(NamedTuple):
    """What became of one input; `fault` is None or says what is wrong."""

    number: int
    kind: str
    fault: str | None = None


@dataclass
class Tally:
    """The outcomes of one target."""

    kinds: Counter[str] = field(default_factory=Counter)
    faults: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        self.kinds[outcome.kind] += 1
        if outcome.fault is not None:
            self.faults.append(outcome)


class TooSlowError(BaseException):
    """An input that took too long; no reader catches it."""


def make_input(target: Target, samples: Sequence[bytes], number: int) -> bytes:
    """The first inputs are the samples as they are; the others are mutated, each by its number."""
    if number < len(samples):
        return samples[number]
    return mutate(random.Random(f"{target.name}/{number}"), samples)


def outcomes(target: Target, numbers: range) -> Iterator[Outcome]:
    """Read inputs in this process, one after the other."""
    shared = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    folder = Path(tempfile.mkdtemp(dir=shared))

    def too_slow(number: int, frame: FrameType | None) -> None:
        raise TooSlowError

    previous = {kind: signal.signal(kind, too_slow) for kind in (signal.SIGPROF, signal.SIGALRM)}
    try:
        samples, read = target.prepare(folder)
        for number in numbers:
            content = make_input(target, samples, number)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
            try:
                read(content)
                outcome = Outcome(number, READ)
            except target.documented as error:
                fault = None
                if number < len(samples):
                    fault = f"a valid file was refused: {error}"
                elif str(folder) not in str(error) and not str(error).startswith(target.beginnings):
                    fault = f"the message names neither file nor argument: {error!r}"[:300]
                outcome = Outcome(number, type(error).__name__, fault)
            except TooSlowError:
                outcome = Outcome(number, "hang", f"more than {SECONDS} s of the processor")
            except BaseException as error:
                kind = f"wrong: {type(error).__name__}"
                outcome = Outcome(number, kind, f"{type(error).__name__}: {error}"[:300])
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
                signal.setitimer(signal.ITIMER_REAL, 0)
            yield outcome
    finally:
        for kind, handler in previous.items():
            signal.signal(kind, handler)
        shutil.rmtree(folder, ignore_errors=True)


def outcomes_in_a_process(target: Target, numbers: range) -> Iterator[Outcome]:
    """Read inputs in processes of their own, so that a crash is an outcome as well."""
    context = get_context("fork")  # shares the imports, and a target need not be pickled
    start = numbers.start
    while start < numbers.stop:
        receiver, sender = context.Pipe(duplex=False)
        rest = range(start, numbers.stop)
        process = context.Process(target=_send_outcomes, args=(target, rest, sender))
        process.start()
        sender.close()
        try:
            while True:
                outcome = receiver.recv()
                start = outcome.number + 1
                yield outcome
        except EOFError:
            process.join()
        if start < numbers.stop:
            yield Outcome(start, "crash", f"the process ended with {process.exitcode}")
            start += 1


def _send_outcomes(target: Target, numbers: range, sender: Connection) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    for outcome in outcomes(target, numbers):
        sender.send(outcome)
