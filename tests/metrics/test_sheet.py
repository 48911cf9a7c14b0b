"""The contact sheet: every picture is on it, whole and unchanged, in its row and column."""

import cv2
import numpy as np
import pytest

from pipeline.metrics.sheet import contact_sheet


def test_every_picture_is_found_where_it_belongs():
    rng = np.random.default_rng(0)
    rows = [[rng.integers(0, 256, (48, 64, 3)).astype(np.uint8) for _ in range(3)] for _ in range(2)]
    sheet = cv2.imdecode(np.frombuffer(contact_sheet(rows, ["input", "truth", "full"], ["one", "two"]), np.uint8), 1)[..., ::-1]
    places = []
    for row in rows:
        for picture in row:
            large = np.ascontiguousarray(picture.repeat(3, 0).repeat(3, 1))
            found = cv2.matchTemplate(np.ascontiguousarray(sheet), large, cv2.TM_SQDIFF)
            top, left = np.unravel_index(found.argmin(), found.shape)
            assert np.array_equal(sheet[top : top + 144, left : left + 192], large)
            places.append((top, left))
    tops, lefts = [place[0] for place in places], [place[1] for place in places]
    assert tops[0] == tops[1] == tops[2] < tops[3] == tops[4] == tops[5]
    assert lefts[:3] == lefts[3:] == sorted(lefts[:3]) and len(set(lefts)) == 3


def test_pictures_of_another_size_or_number_are_refused():
    picture = np.zeros((8, 8, 3), np.uint8)
    for rows, columns, names in ([[[picture, picture[:4]]], ["a", "b"], ["x"]], [[[picture]], ["a", "b"], ["x"]]):
        with pytest.raises(ValueError, match="all must agree"):
            contact_sheet(rows, columns, names)
