"""Settings of prediction that cannot work are named."""

import pytest

from harveyseg.config.settings import parse
from harveyseg.errors import HarveysegError
from harveyseg.inference.params import InferenceParams


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scales": []}, r"inference\.scales = \[\]: must list different factors in 0\.25\.\.4"),
        ({"scales": [1.0, 0.0]}, r"inference\.scales = .*must list different factors"),
        ({"scales": [-1]}, r"inference\.scales = .*must list different factors"),
        ({"scales": [1, 1.0]}, r"inference\.scales = .*must list different factors"),
        ({"scales": 1.0}, r"inference\.scales = 1\.0: "),
        ({"window": 100}, r"inference\.window = 100: must be null or a multiple of 32 from 64"),
        ({"window": 32}, r"inference\.window = 32: must be null or a multiple of 32"),
        ({"window": -64}, r"inference\.window = -64: must be null or a multiple of 32"),
        ({"overlap": 1.0}, r"inference\.overlap = 1\.0: .* less than or equal to 0\.9"),
        ({"overlap": -0.1}, r"inference\.overlap = -0\.1: .* greater than or equal to 0"),
        ({"tta": "rot"}, r"inference\.tta = 'rot': .*'none', 'flips' or 'd4'"),
    ],
)
def test_a_setting_that_cannot_work_is_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(HarveysegError, match=message):
        parse(InferenceParams, values, "inference")
