"""Every number a stage may attach to a candidate: its meaning, unit and range. Closed and append-only.

The manifest's `scores` struct has one nullable column for each; null means not computed.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Score:
    unit: str
    meaning: str


SCORES: dict[str, Score] = {
    # Headers
    "width": Score("px", "width as shown; the smallest over the views"),
    "height": Score("px", "height as shown; the smallest over the views"),
    "fps": Score("1/s", "average frame rate; the smallest over the views"),
    "duration_s": Score("s", "duration; the smallest over the views"),
    "n_frames": Score("frames", "frames a player would show; the smallest over the views"),
    "n_views": Score("views", "number of views"),
    # Synchronization of the views of one scene
    "sync_frame_spread": Score("frames", "largest minus smallest frame count over the views"),
    "sync_fps_spread": Score("1/s", "largest minus smallest average frame rate over the views"),
    "sync_offset_ms": Score("ms", "largest difference of the time of the same frame number between two views"),
    # Geometry of a group of views
    "overlap": Score("fraction", "least two-way overlap over the pairs: share of one image's rays that cross the other"),
    "angle_deg": Score("degrees", "largest angle over the pairs, of the kind the recipe names for the curriculum"),
    "frame_interval": Score("frames", "largest frame interval over the pairs"),
    "baseline": Score("source units", "largest distance between camera centres over the pairs"),
    "fov_deg": Score("degrees", "largest field of view (horizontal or vertical) over the views"),
    # Windows for in-betweening
    "stride": Score("frames", "source frames from one frame of the window to the next"),
    "time_error_ms": Score("ms", "largest distance of a chosen frame from the time the stride asks for"),
    "start_end_difference": Score("0..1", "mean absolute luma difference between first and last frame at 64 px height"),
    # Quality of single-view clips (pixels)
    "black_fraction": Score("fraction", "share of sampled frames that are all but black"),
    "frozen_fraction": Score("fraction", "share of consecutive sampled frames that do not differ"),
    "letterbox_fraction": Score("fraction", "share of the picture taken by constant dark bars at its borders"),
    "sharpness": Score("luma²", "median over sampled frames of the variance of the Laplacian at 256 px height"),
    "brightness": Score("0..1", "median over sampled frames of the mean luma"),
    "dark_fraction": Score("fraction", "median share of crushed pixels (luma below 16 of 255)"),
    "bright_fraction": Score("fraction", "median share of blown-out pixels (luma above 250 of 255)"),
    # Motion of single-view clips (models); lengths are shares of the image diagonal
    "camera_motion": Score("fraction of diagonal", "how far the camera's own motion moves the picture, at most, over the clip"),
    "foreground_motion": Score("fraction of diagonal", "how far the region that moves most does so against the camera's motion"),
    "n_masks": Score("regions", "regions of the first frame that were followed"),
    "visible_fraction": Score("fraction", "share of the followed points that are visible, over all frames"),
    "tracked_points": Score("points", "points that the camera's motion rests on, median over the frames; 0 where it is mostly unknown"),
    "tracked_masks": Score("regions", "regions whose motion against the camera is known"),
    # Conditions for in-betweening (models)
    "n_lines": Score("lines", "line segments matched between the first and the last frame"),
    "n_people": Score("people", "people found in both the first and the last frame"),
    "pose_score": Score("0..1", "mean score of the body keypoints found"),
    # Shots
    "shot_frames": Score("frames", "length of the shot between two cuts"),
}
