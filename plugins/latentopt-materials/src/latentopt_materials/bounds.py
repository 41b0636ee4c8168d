"""What two phases can reach at a volume fraction, whatever their shapes: Wiener, Voigt, Reuss, and Hashin and Shtrikman.

All take the white phase's volume fractions as a tensor and the phases' (black, white) moduli, and give tensors of the same
shape, `(lower, upper)`. K and G are moduli in d dimensions: in the plane K = lambda + mu of plane strain (or its like).
"""

from __future__ import annotations

from torch import Tensor

Pair = tuple[float, float]


def means(fraction: Tensor, phases: Pair) -> tuple[Tensor, Tensor]:
    """Harmonic and arithmetic means: the bounds of Wiener (1912) for conduction, of Reuss and Voigt for K and for G.

    A laminate reaches both conductivities: across its layers and along them.
    """
    black, white = phases
    return 1 / ((1 - fraction) / black + fraction / white), (1 - fraction) * black + fraction * white


def _shifted(fraction: Tensor, phases: Pair, shift: float) -> Tensor:
    """The harmonic mean of the moduli plus a shift, less the shift: a form that all these bounds have (Milton 2002)."""
    return means(fraction, (phases[0] + shift, phases[1] + shift))[0] - shift


def conductivity(fraction: Tensor, phases: Pair, dim: int) -> tuple[Tensor, Tensor]:
    """Hashin and Shtrikman (1962, eq. 3.21 and 3.22; 1970 in the plane) for the mean of the principal conductivities.

    They were derived for isotropic mixtures; the trace bounds of Murat and Tartar (1985) and of Lurie and Cherkaev (1984)
    make them hold for the mean of any two-phase structure.
    """
    low, high = sorted(phases)
    return _shifted(fraction, phases, (dim - 1) * low), _shifted(fraction, phases, (dim - 1) * high)


def bulk(fraction: Tensor, bulks: Pair, shears: Pair, dim: int) -> tuple[Tensor, Tensor]:
    """Hashin and Shtrikman (1963; Hashin 1965 in the plane; Walpole 1966 for phases of any order) for the bulk modulus."""
    low, high = (2 * (dim - 1) / dim * extreme(shears) for extreme in (min, max))
    return _shifted(fraction, bulks, low), _shifted(fraction, bulks, high)


def shear(fraction: Tensor, bulks: Pair, shears: Pair, dim: int) -> tuple[Tensor, Tensor]:
    """The same for the shear modulus (of all directions, on the average)."""
    low, high = (_shear_shift(extreme(bulks), extreme(shears), dim) for extreme in (min, max))
    return _shifted(fraction, shears, low), _shifted(fraction, shears, high)


def _shear_shift(k: float, g: float, dim: int) -> float:
    return k * g / (k + 2 * g) if dim == 2 else g * (9 * k + 8 * g) / (6 * (k + 2 * g))
