"""The machine's state as `system` events, from a thread of its own."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from auricle.core.events import EventLog

SECONDS_BETWEEN = 10.0


class SystemMonitor:
    """Writes a `system` event at once and then every ten seconds, until it is closed, and calls `beat` as often."""

    def __init__(self, log: EventLog, folder: Path, beat: Callable[[], None] = lambda: None) -> None:
        self._log, self._folder, self._beat, self._closing = log, folder, beat, threading.Event()
        self._gpus = _gpu_handles()
        psutil.cpu_percent()  # the first call starts the measurement
        self._thread = threading.Thread(target=self._run, name="system-monitor", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            self._beat()
            self._log.write("system", **measure(self._folder, self._gpus))
            if self._closing.wait(SECONDS_BETWEEN):
                return

    def close(self) -> None:
        self._closing.set()
        self._thread.join()


def measure(folder: Path, gpus: list[Any]) -> dict[str, float]:
    """CPU, memory and disk; for each GPU its load and memory (`gpu0_percent` …), and the largest of each."""
    memory = psutil.virtual_memory()
    values = {
        "cpu_percent": psutil.cpu_percent(),
        "ram_gb": round(memory.used / 1e9, 3),
        "ram_percent": memory.percent,
        "process_ram_gb": round(psutil.Process().memory_info().rss / 1e9, 3),
        "disk_free_gb": round(shutil.disk_usage(folder).free / 1e9, 2),
    }
    loads, used = zip(*map(_gpu_load, gpus), strict=True) if gpus else ((), ())
    return values | (
        {"gpu_percent": max(loads), "vram_gb": round(max(used) / 1e9, 3), "gpus": len(gpus)} if gpus else {}
    )


def _gpu_handles() -> list[Any]:
    import pynvml

    try:
        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:  # no NVIDIA driver here
        return []


def _gpu_load(handle: Any) -> tuple[int, int]:
    import pynvml

    return pynvml.nvmlDeviceGetUtilizationRates(handle).gpu, pynvml.nvmlDeviceGetMemoryInfo(handle).used
