"""The equivalence contract's tolerances, and why each is what it is."""

#: Heatmap and grid (of its maximum), any engine against the reference: float32 sums over 2,048 channels.
MAP = 1e-4
#: Peak of a map on a GPU, relative, against the CPU's: one rounding of the four products that are interpolated.
PEAK = 1e-6
#: Filters, of the map's largest magnitude: one float32 rounding of some hundred positive weights.
FILTER = 1e-6
#: eps, relative, against the published code, which computes its distances in float32.
EPS = 1e-5
#: A distance this close to eps, relative, may count as a neighbour or not: float32 rounding.
TIE = 1e-6
#: Where gradients of both signs cancel to less than this, float32 has fewer digits left than MAP asks for.
CANCELLED = 1e-2
#: Probabilities of the same images in batches of other sizes: float32 rounding in the model.
PROBABILITY = 1e-5
#: Similarities of heatmaps (SSIM, correlation) of the same images in batches of other sizes.
SIMILARITY = 1e-4
#: Filled pixels against an exact solution in float64: rounding, see `metrics.imputation._RESIDUAL`.
FILLED = 2e-4
