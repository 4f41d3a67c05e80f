"""Description of the machine, and the memory that a call needs."""

import itertools
import json
import multiprocessing
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from reliability_balance import __version__


class PeakMemory:
    """Context that measures peak resident memory above the start, in MiB; only on Linux."""

    def __enter__(self) -> "PeakMemory":
        try:
            Path("/proc/self/clear_refs").write_text("5")  # reset the peak
        except OSError:
            self.start = None
        else:
            self.start = _status_mib("VmRSS")
        return self

    def __exit__(self, *error: object) -> None:
        self.mib = None if self.start is None else _status_mib("VmHWM") - self.start


def in_fresh_process(call: Callable[[], float | None]) -> tuple[float, float]:
    """Return by how many MiB a call raised the peak memory of a new process, and its result."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_growth_of_memory, (call,))


def _growth_of_memory(call: Callable[[], float | None]) -> tuple[float, float]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with PeakMemory() as peak:
        result = call()
    if peak.mib is None:
        raise OSError("peak memory can be measured on Linux only")
    return peak.mib, result or 0.0


def _status_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def peak_allocated(call: Callable[[], object]) -> int:
    """Return torch's peak memory during a call, in bytes above the start."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    changes = [event for event in events if event.get("name") == "[memory]"]
    changes.sort(key=lambda event: event["ts"])
    return max(itertools.accumulate(int(event["args"]["Bytes"]) for event in changes))


def describe_machine() -> dict[str, str]:
    """Return the machine and the software versions."""
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return {
        "processor": cpu,
        "cores": str(os.cpu_count()),
        "threads used": "1",
        "load before the run": load,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "reliability_balance": __version__,
    }
