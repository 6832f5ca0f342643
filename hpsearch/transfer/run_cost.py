"""What a run takes of a cluster: hours, days, money."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

# Peak FLOP/s of dense bfloat16 products (float16 on a V100), by the makers' data sheets: NVIDIA's of V100 SXM2,
# A100, H100 SXM, H200 SXM and B200; AMD's of MI300X; Google's system pages of TPU v4 and v5p.
PEAK_FLOPS = MappingProxyType(
    {
        "v100": 125e12,
        "a100": 312e12,
        "h100": 989e12,
        "h200": 989e12,
        "b200": 2250e12,
        "mi300x": 1307e12,
        "tpu-v4": 275e12,
        "tpu-v5p": 459e12,
    }
)
DEFAULT_MFU = 0.4  # 38 to 43 % on up to 16384 H100: Grattafiori et al. 2024 (arXiv 2407.21783), table 4


@dataclass(frozen=True)
class Cluster:
    """The devices that a run has."""

    devices: int
    device: str
    peak_flops: float  # FLOP/s of one device
    mfu: float  # model FLOPs utilisation: the share of the peak that the model's own FLOPs reach
    price: float | None  # of one device for an hour, in any currency; None: not told

    def device_hours(self, flops: float) -> float:
        return flops / (self.peak_flops * self.mfu) / 3600.0

    def days(self, flops: float) -> float:
        """Wall time on all devices."""
        return self.device_hours(flops) / self.devices / 24.0

    def money(self, flops: float) -> float | None:
        return None if self.price is None else self.device_hours(flops) * self.price
