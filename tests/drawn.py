"""Small pictures, and refusals, for the tests of the reader of photographs."""

import numpy as np
import pytest
from PIL import Image

from data import photographs


def quarters():
    """White, red, green and blue quarters of 40 x 24 pixels."""
    array = np.zeros((24, 40, 3), np.uint8)
    array[:12, :20], array[:12, 20:, 0], array[12:, :20, 1], array[12:, 20:, 2] = 255, 255, 255, 255
    return Image.fromarray(array)


def refused(path, reader=photographs.read):
    """The reason of a refusal: one sentence that does not repeat the path."""
    with pytest.raises(photographs.Unreadable) as error:
        reader(path)
    reason = str(error.value)
    assert reason and "\n" not in reason and str(path) not in reason and ";" in reason
    return reason
