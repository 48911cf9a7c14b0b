"""How busy a GPU is, as its driver says: the share of time in which any kernel ran. By the package nvidia-ml-py, else by nvidia-smi."""

import shutil
import statistics
import subprocess
import time
from collections.abc import Sequence
from threading import Event, Thread

from stages.perception.device import torch_device


class Gauge:
    """Samples how busy a GPU is, several times a second, from a thread of this process."""

    def __init__(self, device: str) -> None:
        self.samples: list[tuple[float, float]] = []
        self.source = "not measured"
        self._end = Event()
        self._uuid = gpu_uuid(device)
        self._thread = Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "Gauge":
        if self._uuid is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        if self._uuid is not None:
            self._thread.join()

    def _sample(self) -> None:
        try:
            import pynvml
        except ImportError:
            if shutil.which("nvidia-smi"):
                self._sample_smi()
            return
        pynvml.nvmlInit()
        self.source = "NVML"
        handle = pynvml.nvmlDeviceGetHandleByUUID(self._uuid)
        while not self._end.wait(0.1):
            self.samples.append((time.monotonic(), float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)))
        pynvml.nvmlShutdown()

    def _sample_smi(self) -> None:
        self.source = "nvidia-smi"
        asked = ["nvidia-smi", "-i", str(self._uuid), "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not self._end.wait(0.1):
            said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
            if said.isdecimal():
                self.samples.append((time.monotonic(), float(said)))

    def busy(self, spans: Sequence[tuple[float, float]]) -> str:
        """The mean over spans of time.monotonic()."""
        values = [value for at, value in self.samples if any(begun <= at <= ended for begun, ended in spans)]
        return f"{statistics.mean(values):.0f} %" if values else "not measured"


def gpu_uuid(device: str) -> str | None:
    """NVML's name of the GPU that torch means by that; None for none."""
    import torch

    place = torch_device(device)
    return f"GPU-{torch.cuda.get_device_properties(place).uuid}" if place.type == "cuda" else None
