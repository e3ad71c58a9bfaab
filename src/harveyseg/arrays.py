"""Names for the arrays that modules hand to each other: the name says what the axes are.

C is the number of classes, S that of the scored ones; H and W are height and width in pixels; N counts photos. A class
map holds indices of classes (see :mod:`harveyseg.classes`), and 255 where there is no label. Probabilities are stored
in 256 levels: level k is the probability k / 255.
"""

import numpy as np
import numpy.typing as npt

SIDE_MULTIPLE = 32
"""Networks halve a photo up to five times: every network takes sides divisible by this."""

Photo = npt.NDArray[np.uint8]
"""uint8 (H, W, 3): one photo, RGB."""

Photos = npt.NDArray[np.uint8]
"""uint8 (N, H, W, 3): photos of one size, RGB."""

ClassMap = npt.NDArray[np.uint8]
"""uint8 (H, W): the class of each pixel, true or predicted."""

ClassMaps = npt.NDArray[np.uint8]
"""uint8 (N, H, W): class maps of one size."""

ProbabilityMap = npt.NDArray[np.uint8]
"""uint8 (H, W): the probability of one class, in levels."""

ProbabilityMaps = npt.NDArray[np.uint8]
"""uint8 (C, H, W): the probabilities of one photo, in levels."""

ProbabilityStack = npt.NDArray[np.uint8]
"""uint8 (N, C, H, W): the probabilities of photos of one size, in levels."""

BinaryMask = npt.NDArray[np.bool_]
"""bool (H, W): the pixels of one class."""

BinaryMasks = npt.NDArray[np.bool_]
"""bool (S, H, W): a mask for each scored class; they may overlap and need not cover the photo."""

Confusion = npt.NDArray[np.int64]
"""int64 (C, C): pixels of one image, true class by row, predicted class by column."""

Confusions = npt.NDArray[np.int64]
"""int64 (N, C, C): one confusion for each image."""

Rows = npt.NDArray[np.intp]
"""Row numbers of photos in the cache."""

FloatArray = npt.NDArray[np.float64]
"""float64; the docstring says which shape."""

Float32Array = npt.NDArray[np.float32]
"""float32; the docstring says which shape."""

ByteArray = npt.NDArray[np.uint8]
"""uint8; the docstring says which shape."""

IntArray = npt.NDArray[np.int64]
"""int64; the docstring says which shape."""

BoolArray = npt.NDArray[np.bool_]
"""bool; the docstring says which shape."""
