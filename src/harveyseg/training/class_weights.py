"""Weights of the classes in the cross-entropy, from how often each class occurs in the training pixels."""

from typing import Literal

import numpy as np

from harveyseg.arrays import FloatArray

ClassWeights = Literal["none", "report", "enet", "sqrt"]

_SQRT_BOUNDS = (0.2, 5.0)


def class_weights(scheme: ClassWeights, frequencies: FloatArray) -> FloatArray | None:
    """Weight of each class in the cross-entropy.

    * ``report``: 1 / ln(percentage of occurrences), the report's trial 2 taken literally. **It is defective**: the
      logarithm is 0 at 1%, so the weight is infinite there, negative below it, and positive above it. A class of
      0.9% thus gets about -9.5 and one of 1.1% about +10.5. Among the frequent classes the rarest weighs most, but
      among the rare ones it weighs least (in size): the order is reversed. A negative weight rewards mistakes. The
      scheme exists to repeat the report's trial and to test its finding that weights "didn't really help".
    * ``enet``: 1 / ln(1.02 + frequency), Paszke et al. 2016 (ENet), bounded in [1.4, 50.5].
    * ``sqrt``: sqrt(median frequency / frequency), the square root of median frequency balancing (Eigen & Fergus
      2015), clipped to [0.2, 5]. Frequencies here span four orders of magnitude: full balancing would give a street
      light the weight of a thousand lawns, while without weights a short training finds no small class at all.

    Args:
        scheme: which formula.
        frequencies: share of each class in the training pixels, shape (C,), sum 1.

    Returns:
        Shape (C,), weight 0 for a class without a pixel; None for ``none``.

    >>> class_weights("sqrt", np.array([0.64, 0.16, 0.2, 0.0])).round(2)
    array([0.56, 1.12, 1.  , 0.  ])
    """
    if scheme == "none":
        return None
    present = frequencies > 0
    weights = np.zeros_like(frequencies)
    if scheme == "enet":
        weights[present] = 1 / np.log(1.02 + frequencies[present])
    elif scheme == "sqrt":
        weights[present] = np.clip(np.sqrt(np.median(frequencies[present]) / frequencies[present]), *_SQRT_BOUNDS)
    else:
        logarithm = np.log(100 * frequencies[present])
        # Exactly 1% has no finite weight; rounding rarely hits it, and a huge finite weight does the same.
        logarithm[logarithm == 0] = np.finfo(np.float32).eps
        weights[present] = 1 / logarithm
    return weights
