"""Where dense arithmetic runs: one code path for CPU and GPU.

torch is imported at the first product, so that commands which only look things up start fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Device = Literal["auto", "cpu", "cuda"]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """The device that products run on; `auto` takes a GPU where there is one."""

    device: Device = "auto"

    def resolve(self) -> str:
        """`cuda` or `cpu`."""
        if self.device != "auto":
            return self.device
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    def gram(self, rows: Float32) -> Float64:
        """Inner products of all pairs of rows, accumulated in float64.

        Parameters
        ----------
        rows : (n, d) float32. Centre them first: products of uncentred weights lose every digit
            of a relative distance below 1e-3.

        Returns
        -------
        (n, n) float64.
        """
        import torch

        x = torch.from_numpy(np.ascontiguousarray(rows)).to(self.resolve()).double()
        out: Float64 = (x @ x.T).cpu().numpy()
        return out

    def cross(self, left: Float32, right: Float32) -> Float32:
        """(n, m) float32 inner products of the rows of (n, d) `left` and (m, d) `right`."""
        import torch

        device = self.resolve()
        a = torch.from_numpy(np.ascontiguousarray(left)).to(device)
        b = torch.from_numpy(np.ascontiguousarray(right)).to(device)
        out: Float32 = (a @ b.T).cpu().numpy()
        return out
