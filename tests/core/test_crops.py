from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdtc.core.crops import CROP_SCALE, crop_frame, crop_to_image, crop_to_image_matrix, expand_boxes, image_to_crop

SIZE = (256, 192)
boxes = st.tuples(st.floats(-500, 2000), st.floats(-500, 2000), st.floats(1, 1500), st.floats(1, 1500)).map(np.array)
points = st.lists(st.tuples(st.floats(-3000, 3000), st.floats(-3000, 3000)), min_size=1, max_size=5).map(np.array)


@given(boxes)
def test_expanded_box_keeps_centre_and_covers_the_person(box) -> None:
    x, y, w, h = expand_boxes(box, SIZE)
    assert x + w / 2 == pytest.approx(box[0] + box[2] / 2, abs=1e-6)
    assert y + h / 2 == pytest.approx(box[1] + box[3] / 2, abs=1e-6)
    assert w / h == pytest.approx(SIZE[1] / SIZE[0])
    # One side is exactly enlarged, the other grew to the aspect ratio.
    assert min(w / box[2], h / box[3]) == pytest.approx(CROP_SCALE)


@given(boxes, points)
def test_image_and_crop_are_inverse(box, pts) -> None:
    crop_box = expand_boxes(box, SIZE)
    there_and_back = crop_to_image(image_to_crop(pts, crop_box, SIZE), crop_box, SIZE)
    np.testing.assert_allclose(there_and_back, pts, atol=1e-6)


@given(boxes)
def test_corners_of_the_box_are_the_first_and_last_pixel_centres(box) -> None:
    x, y, w, h = expand_boxes(box, SIZE)
    corners = image_to_crop(np.array([[x, y], [x + w, y + h]]), np.array([x, y, w, h]), SIZE)
    np.testing.assert_allclose(corners, [[0, 0], [SIZE[1] - 1, SIZE[0] - 1]], atol=1e-6)


def test_vectorised_equals_one_by_one(rng) -> None:
    many = rng.uniform(1, 400, (6, 4))
    np.testing.assert_allclose(expand_boxes(many, SIZE), [expand_boxes(box, SIZE) for box in many])
    pts = rng.uniform(0, 400, (6, 15, 2))
    crop_boxes = expand_boxes(many, SIZE)
    together = image_to_crop(pts, crop_boxes[:, None], SIZE)
    np.testing.assert_allclose(together, [image_to_crop(p, b, SIZE) for p, b in zip(pts, crop_boxes, strict=True)])


def test_crop_puts_a_dot_where_the_mapping_says() -> None:
    """The picture and the formula must agree: draw a dot, crop, find its centre of mass."""
    for x, y, box in [
        (300.0, 200.0, (250, 120, 120, 200)),
        (40.0, 30.0, (5, 3, 60, 90)),
        (610.0, 350.0, (560, 200, 90, 170)),
    ]:
        frame = np.zeros((400, 700, 3), np.uint8)
        frame[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3] = 255  # symmetric about the pixel (x, y)
        crop_box = expand_boxes(np.array(box), SIZE)
        crop = crop_frame(frame, crop_box, SIZE)[..., 0].astype(float)
        rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
        found = np.array([(crop * columns).sum(), (crop * rows).sum()]) / crop.sum()
        np.testing.assert_allclose(found, image_to_crop(np.array([x, y]), crop_box, SIZE), atol=0.05)


def test_outside_the_image_is_black_and_the_inside_is_kept() -> None:
    frame = np.full((100, 100, 3), 200, np.uint8)
    crop = crop_frame(frame, expand_boxes(np.array([-60.0, 20.0, 60.0, 60.0]), SIZE), SIZE)
    assert crop[:, 0].max() == 0
    assert crop[SIZE[0] // 2, -1].min() == 200


def test_crop_writes_in_place() -> None:
    out = np.zeros((2, *SIZE, 3), np.uint8)
    frame = np.full((50, 50, 3), 7, np.uint8)
    crop_frame(frame, np.array([10.0, 10.0, 20.0, 20.0]), SIZE, out=out[1])
    assert (out[1] == 7).all()
    assert not out[0].any()


def test_flipping_image_and_box_flips_the_crop(rng) -> None:
    """The unbiased convention: mirroring commutes with cropping."""
    frame = rng.integers(0, 256, (120, 90, 3), dtype=np.uint8)
    box = np.array([20.0, 10.0, 36.0, 48.0])
    mirrored_box = np.array([90 - 1 - box[0] - box[2], *box[1:]])
    straight = crop_frame(frame, box, (64, 48))
    mirrored = crop_frame(np.ascontiguousarray(frame[:, ::-1]), mirrored_box, (64, 48))
    # OpenCV's interpolation weights are rounded to 1/32 pixel, so a little noise remains.
    assert np.abs(straight.astype(int) - mirrored[:, ::-1]).mean() < 2


@given(boxes, points)
def test_matrix_without_rotation_is_the_plain_mapping(box, pts) -> None:
    crop_box = expand_boxes(box, SIZE)
    matrix = crop_to_image_matrix(crop_box, SIZE)
    np.testing.assert_allclose(pts @ matrix[:, :2].T + matrix[:, 2], crop_to_image(pts, crop_box, SIZE), atol=1e-6)


@given(boxes, st.floats(-180, 180))
def test_rotation_keeps_the_centre_and_the_scale(box, rotation) -> None:
    crop_box = expand_boxes(box, SIZE)
    matrix = crop_to_image_matrix(crop_box, SIZE, rotation)
    centre = matrix @ np.array([(SIZE[1] - 1) / 2, (SIZE[0] - 1) / 2, 1])
    np.testing.assert_allclose(centre, crop_box[:2] + crop_box[2:] / 2, atol=1e-6)
    lengths = np.linalg.norm(matrix[:, :2], axis=0)
    np.testing.assert_allclose(lengths, crop_box[2:] / [SIZE[1] - 1, SIZE[0] - 1], rtol=1e-9)


def test_a_box_turned_clockwise_sees_its_right_side_below() -> None:
    frame = np.zeros((200, 200, 3), np.uint8)
    frame[150:160, 95:106] = 255  # below the centre (100, 100)
    crop = crop_frame(frame, np.array([40.0, 40.0, 120.0, 120.0]), (121, 121), rotation=90)
    columns = np.nonzero(crop[..., 0].any(axis=0))[0]
    assert columns.min() > 100  # the crop's x axis points down in the image
