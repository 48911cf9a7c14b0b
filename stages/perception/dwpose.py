"""DWPose (arXiv 2307.15880) from its official pair of ONNX files: YOLOX-L finds people, dw-ll_ucoco_384 their 133 points.

Both run through the classes of rtmlib, without what these do differently from DWPose's own code (specs/fcvg.md 3): every COCO class
counted as a person, a limit of 0.7 for boxes, the mean of the two maxima as a point's score, a neck with a score in between, a
"person" as large as the picture where nobody is, and downloads. Images are fed as RGB to both networks.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.typed import RecipeError
from stages.perception.openpose import WHOLEBODY, from_wholebody, nobody
from stages.perception.results import Image, People
from stages.perception.weights import WeightsError

Floats = NDArray[np.floating]

DETECTOR_SIZE = (640, 640)
POSE_SIZE = (288, 384)  # width, height
PERSON = 0  # among the 80 classes of COCO
BOX_SCORE, OVERLAP = 0.3, 0.45  # the least score of a box; boxes that overlap more are one person's


class DWPose:
    """People of images, 133 points each, in OpenPose's order of 134.

    det_path, pose_path: yolox_l.onnx and dw-ll_ucoco_384.onnx. device: "cpu", "cuda", "cuda:1"; "auto" is a GPU where onnxruntime can
    use one. batch: images, and people, that a network takes at once, where its file allows more than one. whole_picture: where nobody is
    found the whole picture counts as one, as in DWPose; its scores are low then. Raises RecipeError, WeightsError.
    """

    def __init__(self, det_path: Path, pose_path: Path, *, device: str = "auto", batch: int = 8, whole_picture: bool = False) -> None:
        for path in (det_path, pose_path):  # rtmlib would try to download it
            if not path.is_file():
                raise WeightsError(f"there is no {path}; DWPose needs yolox_l.onnx and dw-ll_ucoco_384.onnx")
        try:
            import onnxruntime
            from rtmlib import YOLOX, RTMPose
        except ImportError as error:
            raise RecipeError(f"DWPose needs the package {error.name}; install it with: uv pip install -e '.[perception]'") from None
        where = _device(device, onnxruntime.get_available_providers())
        # A mode that tells the classes, so that the people can be picked.
        settings = {"det_mode": "multiclass", "nms_thr": OVERLAP, "score_thr": BOX_SCORE}
        self._detector = _with_session(YOLOX, det_path, DETECTOR_SIZE, where, **settings)
        self._pose = _with_session(RTMPose, pose_path, POSE_SIZE, where)
        _check(self._detector.session, det_path, (3, *DETECTOR_SIZE), [(8400, 85)])
        _check(self._pose.session, pose_path, (3, POSE_SIZE[1], POSE_SIZE[0]), [(WHOLEBODY, 576), (WHOLEBODY, 768)])
        if device not in ("auto", "cpu") and "CUDAExecutionProvider" not in self._pose.session.get_providers():
            raise RecipeError(f"device {device!r}: onnxruntime went back to the CPU, its CUDA libraries do not load; see its warning above")
        self._batch = batch
        self._whole_picture = whole_picture

    def people(self, images: Sequence[Image]) -> list[People]:
        """One result for each image [H,W,3], the surest box first."""
        boxes = self.boxes(images)
        tasks = [(number, box) for number, found in enumerate(boxes) for box in found]
        prepared = (self._pose.preprocess(images[number], box) for number, box in tasks)
        found: list[list[tuple[Floats, Floats]]] = [[] for _ in images]
        for (number, _), result in zip(tasks, self._poses(prepared), strict=True):
            found[number].append(result)
        return [from_wholebody(*(np.stack(each) for each in zip(*people, strict=True))) if people else nobody() for people in found]

    def boxes(self, images: Sequence[Image]) -> list[Floats]:
        """For each image [N,4], the surest first: left, top, right, bottom of people, in pixels from the first pixel's centre."""
        prepared = [self._detector.preprocess(image) for image in images]
        found = []
        answers = _runs(self._detector.session, (pixels for pixels, _ in prepared), self._batch)
        for image, (_, ratio), (output,) in zip(images, prepared, answers, strict=True):
            boxes, classes = self._detector.postprocess(output[None], ratio)
            people = np.asarray(boxes, np.float64).reshape(-1, 4)[np.asarray(classes) == PERSON]
            if len(people) == 0 and self._whole_picture:
                people = np.array([[0, 0, image.shape[1], image.shape[0]]], np.float64)
            found.append(people)
        return found

    def _poses(self, prepared: Iterator[tuple[Floats, Floats, Floats]]) -> Iterator[tuple[Floats, Floats]]:
        """Keypoints [133,2] in image pixels and scores [133], of (pixels, centre, scale) each."""
        places: list[tuple[Floats, Floats]] = []

        def pixels() -> Iterator[Floats]:
            for each, centre, scale in prepared:
                places.append((centre, scale))
                yield each

        for number, (x, y) in enumerate(_runs(self._pose.session, pixels(), self._batch)):
            keypoints, _ = self._pose.postprocess([x[None], y[None]], *places[number])
            scores = np.clip(np.minimum(x.max(1), y.max(1)), 0, 1)
            # rtmlib counts from the first pixel's centre; where nothing speaks for a point it has no place.
            yield np.where(scores[:, None] > 0, keypoints[0] + 0.5, 0), scores


def _device(device: str, providers: Sequence[str]) -> str:
    if device == "auto":
        return "cuda" if "CUDAExecutionProvider" in providers else "cpu"
    if device == "cpu":
        return device
    name, _, number = device.partition(":")
    if name != "cuda" or not (number.isdecimal() or device == "cuda"):
        raise RecipeError(f'no device {device!r}; allowed: "auto", "cpu", "cuda", "cuda:1" and so on')
    if "CUDAExecutionProvider" not in providers:
        raise RecipeError(f"device {device!r}: this onnxruntime has {', '.join(providers)}; install onnxruntime-gpu, or take the CPU")
    return device


def _with_session(kind: Any, path: Path, size: tuple[int, int], device: str, **settings: Any) -> Any:
    """One of rtmlib's classes on that file, over a session of ours. rtmlib's own takes as many threads as there are cores, and prints."""
    from rtmlib.tools.base import BaseTool

    session = _session(path, device)

    class Ours(BaseTool):  # type: ignore[misc]
        """Stands where rtmlib's classes look for what opens the file."""

        def __init__(self, onnx_model: str, model_input_size: Any, mean: Any = None, std: Any = None, *_: Any, **__: Any) -> None:
            self.session, self.backend = session, "onnxruntime"
            self.onnx_model, self.model_input_size, self.mean, self.std = onnx_model, model_input_size, mean, std

    return type(kind.__name__, (kind, Ours), {})(str(path), size, **settings)


def _session(path: Path, device: str) -> Any:
    """In one thread: more of them sum in another order, and how many there are is the machine's. Raises WeightsError."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    name, _, number = device.partition(":")
    provider = "CPUExecutionProvider" if name == "cpu" else ("CUDAExecutionProvider", {"device_id": int(number or 0)})
    try:
        return onnxruntime.InferenceSession(str(path), sess_options=options, providers=[provider])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise WeightsError(f"{path} is no network that onnxruntime can run ({str(error).strip().splitlines()[0]})") from None


def _check(session: Any, path: Path, entry: tuple[int, ...], exits: Sequence[tuple[int, ...]]) -> None:
    """The official signature, whatever it says of the batch. Raises WeightsError."""
    takes, gives = ([tuple(each.shape[1:]) for each in ends] for ends in (session.get_inputs(), session.get_outputs()))
    if not (_fits(takes, [entry]) and _fits(gives, exits)):
        raise WeightsError(f"{path} takes {takes} and gives {gives} for each of a batch; expected {[entry]} and {list(exits)}")


def _fits(shapes: Sequence[tuple[Any, ...]], wanted: Sequence[tuple[int, ...]]) -> bool:
    """Sides that a file leaves open fit."""
    return [len(shape) for shape in shapes] == [len(shape) for shape in wanted] and all(
        side == other or not isinstance(side, int)
        for shape, other_shape in zip(shapes, wanted, strict=True)
        for side, other in zip(shape, other_shape, strict=True)
    )


def _runs(session: Any, pictures: Iterator[Floats], batch: int) -> Iterator[list[NDArray[np.float32]]]:
    """The outputs for each picture [H,W,3], less the batch's side; as many at once as asked for, where the file allows it."""
    entry = session.get_inputs()[0]
    at_once = entry.shape[0] if isinstance(entry.shape[0], int) else batch
    waiting: list[Floats] = []

    def run() -> Iterator[list[NDArray[np.float32]]]:
        count = len(waiting)
        filled = waiting + [waiting[-1]] * (at_once - count if isinstance(entry.shape[0], int) else 0)
        pixels = np.ascontiguousarray(np.stack(filled).transpose(0, 3, 1, 2), np.float32)
        waiting.clear()
        outputs = session.run(None, {entry.name: pixels})
        yield from ([output[number] for output in outputs] for number in range(count))

    for picture in pictures:
        waiting.append(picture)
        if len(waiting) == at_once:
            yield from run()
    if waiting:
        yield from run()
