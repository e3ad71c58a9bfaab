"""What settings call devices and precisions. :mod:`harveyseg.device` says what they mean, for which it needs torch."""

from typing import Literal

DeviceName = Literal["auto", "cpu", "cuda"]
Precision = Literal["fp32", "tf32", "bf16"]
"""A resolved precision, as settings, stage keys and run records spell it."""
PrecisionName = Literal["auto", "fp32", "tf32", "bf16"]
