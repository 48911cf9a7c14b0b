"""SynCamVideo's camera strings: Unreal row-vector matrices in centimetres (spec section 2.2)."""

from pipeline.studio.scene import Array
from schemas.camera import to_unreal

FOCAL_V1_MM, FOCAL_V2_MM, SENSOR_MM = 18.0, 24.0, 23.76


def matrix_text(c2w: Array, digits: int) -> str:
    """`[a b c 0] [a b c 0] [a b c 0] [x y z 1] ` with that many significant digits, as the published files round."""
    rows = to_unreal(c2w)
    return " ".join("[" + " ".join(f"{value:.{digits}g}" for value in row) + "]" for row in rows) + " "


def focal_pixels(width: int, focal_mm: float) -> float:
    return width * focal_mm / SENSOR_MM
