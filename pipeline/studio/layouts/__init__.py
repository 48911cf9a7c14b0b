"""One module per dataset layout; `write_layout` finds the one that is asked for."""

from importlib import import_module
from pathlib import Path

from pipeline.studio.layouts.order import Calibration, Footage, Order, Size

# Layout -> module. Each has DEFAULTS and write(order).
LAYOUTS: dict[str, str] = {
    "syncamvideo-v1": "syncamvideo_v1",
    "syncamvideo-v2": "syncamvideo_v2",
    "realestate10k": "realestate10k",
    "dl3dv": "dl3dv",
    "kubric4d": "kubric4d",
    "davis": "davis",
    "rig": "rig",
    "clips": "clips",
}


def write_layout(
    name: str,
    output: Path,
    scenes: int | None = None,
    cameras: int | None = None,
    frames: int | None = None,
    size: Size | None = None,
    seed: int = 0,
    *,
    truth: Path | None = None,
    footage: Footage = "video",
    calibration: Calibration = "json",
    trajectories: Path | None = None,
    progress: bool = False,
) -> None:
    """Render a dataset of the layout `name` into `output` (a new or empty folder).

    None takes the layout's default; size is (width, height), both even. The same arguments give the same bytes.
    truth: a folder for one npz per scene (see `order.write_truth`), outside `output`.
    footage: realestate10k only; how its frames are stored. calibration: rig only. trajectories: realestate10k only, a
    folder of published trajectory files to film along; `scenes` then takes the first N of them and `frames` is not used.
    progress: show a bar when the terminal is one.

    Raises ValueError for an unknown layout, an impossible number, or an option of another layout; FileExistsError where
    `output` holds something already.
    """
    if name not in LAYOUTS:
        raise ValueError(f"unknown layout {name!r}; the studio has {', '.join(LAYOUTS)}")
    module = import_module(f"pipeline.studio.layouts.{LAYOUTS[name]}")
    for option, value, default, owner in (
        ("footage", footage, "video", "realestate10k"),
        ("trajectories", trajectories, None, "realestate10k"),
        ("calibration", calibration, "json", "rig"),
    ):
        if value != default and name != owner:
            raise ValueError(f"{option} is for the layout {owner!r}, not for {name!r}")
    order = Order.of(
        name, module.DEFAULTS, output, scenes, cameras, frames, size, seed, truth, footage, calibration, trajectories, progress
    )  # fmt: skip
    order.prepare()
    with order.bar(name):
        module.write(order)
