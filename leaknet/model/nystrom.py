"""The Nyström approximation of a positive matrix, as the preconditioner of its solution."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor

Columns = Float32[Tensor, "value column"]


@dataclass(frozen=True)
class Nystrom:
    """Eigenvectors and eigenvalues of an approximation from below."""

    vectors: Float32[Tensor, "value rank"]
    values: Float32[Tensor, "rank"]

    @classmethod
    def of(cls, basis: Columns, image: Columns) -> Nystrom:
        """From an orthonormal basis and what the matrix makes of it."""
        nudge = 1e-6 * float(image.norm())
        image = image + nudge * basis
        inner = (basis.T @ image).double()
        factor = torch.linalg.cholesky((inner + inner.T) / 2)
        half = torch.linalg.solve_triangular(factor, image.T.double(), upper=False).T.float()
        values, vectors = torch.linalg.eigh((half.T @ half).double())
        kept = values > 1e-5 * values[-1]
        found = half @ (vectors[:, kept] * values[kept].rsqrt()).float()
        return cls(found, (values[kept] - nudge).clamp_min(0).float())

    def solve(self, columns: Columns, shifts: Float32[Tensor, "column"]) -> Columns:
        """The inverse of the approximation plus a shift, up to a factor."""
        gain = (self.values[0] + shifts) / (self.values[:, None] + shifts) - 1
        return columns + self.vectors @ (gain * (self.vectors.T @ columns))
