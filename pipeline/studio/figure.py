"""An articulated figure: faceted limbs on a skeleton that walks, waves or dances. Its joints are known exactly."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.studio.scene import Array, Builder, turned
from pipeline.studio.textures import Colour, Rng, cloth, face, plain

Motion = Literal["walk", "wave", "dance", "still"]

LIMBS = ("upper_arm", "forearm", "hand", "thigh", "shin", "foot")
BODIES = ("pelvis", "torso", "head", *(f"left_{part}" for part in LIMBS), *(f"right_{part}" for part in LIMBS))

# The 17 COCO keypoints, in their order: (body, position in the body's frame). x forward, y left, z up, metres.
JOINTS: dict[str, tuple[str, tuple[float, float, float]]] = {
    "nose": ("head", (0.11, 0.0, 0.13)),
    "left_eye": ("head", (0.10, 0.035, 0.17)),
    "right_eye": ("head", (0.10, -0.035, 0.17)),
    "left_ear": ("head", (0.0, 0.085, 0.14)),
    "right_ear": ("head", (0.0, -0.085, 0.14)),
    **{
        f"{side}_{joint}": (f"{side}_{body}", (0.0, 0.0, 0.0))
        for joint, body in zip(("shoulder", "elbow", "wrist", "hip", "knee", "ankle"), LIMBS, strict=True)
        for side in ("left", "right")
    },
}

THIGH, SHIN, SOLE = 0.44, 0.43, 0.09
UPPER_ARM, FOREARM = 0.29, 0.26
SHOULDER, HIP, NECK = (0.0, 0.21, 0.47), (0.0, 0.10, -0.02), (0.0, 0.0, 0.60)


@dataclass(frozen=True)
class Figure:
    """A person about 1.75 m tall. Walks around a circle of `radius` metres about `centre`, or stays there."""

    motion: Motion = "walk"
    centre: tuple[float, float] = (0.0, 0.0)
    radius: float = 1.0
    heading: float = 0.0  # radians: where on the circle it starts, or where it looks
    cadence: float = 0.9  # gait cycles a second
    phase: float = 0.0
    bodies: int = len(BODIES)

    def poses(self, time: float) -> Array:
        """[bodies,4,4] in the order of BODIES; the lower foot stands on z = 0."""
        cycle = 2 * np.pi * self.cadence * (0.0 if self.motion == "still" else time) + self.phase
        root = self._root(time)
        pose: dict[str, Array] = {"pelvis": root @ turned(0.05 * np.sin(cycle), 2)}
        sway = 0.06 * np.sin(cycle) if self.motion in ("wave", "dance") else 0.0
        pose["torso"] = pose["pelvis"] @ turned(-0.12 * np.sin(cycle), 2) @ turned(sway, 0, (0, 0, 0.06))
        pose["head"] = pose["torso"] @ turned(0.15 * np.sin(0.5 * cycle), 2, NECK)
        for side, sign in (("left", 1.0), ("right", -1.0)):
            self._arm(pose, side, sign, cycle)
            self._leg(pose, side, sign, cycle)
        stacked = np.stack([pose[name] for name in BODIES])
        feet = stacked[[BODIES.index("left_foot"), BODIES.index("right_foot")]]
        lowest = (feet[:, 2, 3] - SOLE * np.abs(feet[:, 2, 2]) - 0.17 * np.maximum(-feet[:, 2, 0], 0.0)).min()
        stacked[:, 2, 3] -= lowest
        return stacked

    def joints(self, time: float) -> Array:
        """[17,3] world positions in the order of JOINTS."""
        pose = self.poses(time)
        return np.stack([pose[BODIES.index(body)][:3] @ np.array([*at, 1.0]) for body, at in JOINTS.values()])

    def _root(self, time: float) -> Array:
        if self.motion != "walk":
            return turned(self.heading, 2, (*self.centre, 0.0))
        stride = 1.3 * self.cadence  # metres a second
        angle = self.heading + stride * time / self.radius
        at = np.array(self.centre) + self.radius * np.array([np.cos(angle), np.sin(angle)])
        return turned(angle + np.pi / 2, 2, (*at, 0.0))

    def _arm(self, pose: dict[str, Array], side: str, sign: float, cycle: float) -> None:
        swing, lift, bend = -sign * 0.55 * np.sin(cycle), 0.10, 0.35 + 0.2 * np.sin(cycle + sign)
        if self.motion == "wave" and side == "right":
            swing, lift, bend = 0.2, 2.0 + 0.25 * np.sin(cycle), 0.9 + 0.5 * np.sin(2 * cycle)
        elif self.motion == "dance":
            swing, lift, bend = 0.7 * np.sin(cycle + sign), 0.9 + 0.7 * np.sin(0.5 * cycle + sign), 0.8 + 0.5 * np.sin(cycle)
        elif self.motion == "still":
            swing, bend = 0.0, 0.15
        shoulder = (SHOULDER[0], sign * SHOULDER[1], SHOULDER[2])
        pose[f"{side}_upper_arm"] = pose["torso"] @ turned(sign * lift, 0, shoulder) @ turned(-swing, 1)
        pose[f"{side}_forearm"] = pose[f"{side}_upper_arm"] @ turned(-bend, 1, (0, 0, -UPPER_ARM))
        pose[f"{side}_hand"] = pose[f"{side}_forearm"] @ turned(-0.1, 1, (0, 0, -FOREARM))

    def _leg(self, pose: dict[str, Array], side: str, sign: float, cycle: float) -> None:
        own = cycle if sign > 0 else cycle + np.pi
        swing, bend = 0.0, 0.05
        if self.motion == "walk":
            swing, bend = 0.48 * np.sin(own), 0.15 + 0.75 * max(np.cos(own), 0.0) ** 2
        elif self.motion == "dance":
            swing, bend = 0.25 * max(np.sin(own), 0.0), 0.1 + 0.5 * max(np.sin(own), 0.0)
        pose[f"{side}_thigh"] = pose["pelvis"] @ turned(-swing, 1, (HIP[0], sign * HIP[1], HIP[2]))
        pose[f"{side}_shin"] = pose[f"{side}_thigh"] @ turned(bend, 1, (0, 0, -THIGH))
        pose[f"{side}_foot"] = pose[f"{side}_shin"] @ turned(-(bend - swing) * 0.9, 1, (0, 0, -SHIN))


def add_figure(builder: Builder, figure: Figure, rng: Rng, name: str = "figure") -> None:
    """Add the figure's bodies, clothed by `rng`, as one instance."""
    first = builder.add_actor(figure, name)
    look = _wardrobe(builder, rng)

    def part(body: str, rings: list[tuple[float, float]], aspect: float, texture: int, sides: int = 6) -> None:
        builder.add_lathe(first + BODIES.index(body), rings, aspect, sides, texture)

    part("pelvis", [(0.12, 0.11), (-0.02, 0.125), (-0.10, 0.10)], 1.5, look["trousers"], 8)
    part("torso", [(0.54, 0.07), (0.49, 0.125), (0.30, 0.13), (0.02, 0.10)], 1.65, look["shirt"], 8)
    part("head", [(0.27, 0.06), (0.22, 0.095), (0.06, 0.10), (0.0, 0.06), (-0.08, 0.05)], 0.85, look["skin"], 8)
    builder.add_lathe(first + BODIES.index("head"), [(0.285, 0.06), (0.235, 0.105), (0.19, 0.108)], 0.87, 8, look["hair"])
    # The face is a plate just before the head's front facet.
    plate = [(0.1, -0.042, 0.215), (0.1, 0.042, 0.215), (0.1, 0.042, 0.06), (0.1, -0.042, 0.06)]
    builder.add_face(first + BODIES.index("head"), plate, look["face"], None, False)
    for side in ("left", "right"):
        part(f"{side}_upper_arm", [(0.05, 0.045), (0.0, 0.062), (-UPPER_ARM, 0.045)], 1.0, look["shirt"])
        part(f"{side}_forearm", [(0.0, 0.044), (-FOREARM, 0.032)], 1.0, look["skin"])
        part(f"{side}_hand", [(0.0, 0.028), (-0.07, 0.045), (-0.17, 0.022)], 0.6, look["skin"])
        part(f"{side}_thigh", [(0.04, 0.075), (-0.04, 0.09), (-THIGH, 0.06)], 1.0, look["trousers"])
        part(f"{side}_shin", [(0.0, 0.058), (-0.12, 0.06), (-SHIN, 0.042)], 1.0, look["trousers"])
        builder.add_box(first + BODIES.index(f"{side}_foot"), (-0.08, -0.045, -SOLE), (0.17, 0.045, -0.01), look["shoes"], 0.3)


def _wardrobe(builder: Builder, rng: Rng) -> dict[str, int]:
    bright: list[Colour] = [(214, 60, 48), (38, 98, 196), (242, 178, 40), (38, 150, 96), (150, 62, 160), (232, 112, 36)]
    dark: list[Colour] = [(44, 52, 84), (58, 58, 62), (92, 66, 48), (36, 70, 66)]
    first, second = rng.choice(len(bright), 2, replace=False)
    skin: Colour = ((236, 190, 158), (198, 144, 108), (132, 88, 62))[int(rng.integers(3))]
    hair: Colour = ((46, 34, 28), (112, 72, 38), (176, 136, 70))[int(rng.integers(3))]
    legs = dark[int(rng.integers(len(dark)))]
    return {
        "shirt": builder.add_texture(cloth(rng, bright[first], (240, 236, 226) if rng.random() < 0.5 else bright[second])),
        "trousers": builder.add_texture(cloth(rng, legs, tuple(min(int(c * 1.35), 255) for c in legs))),  # type: ignore[arg-type]
        "skin": builder.add_texture(plain(rng, skin)),
        "hair": builder.add_texture(plain(rng, hair, strength=0.3)),
        "shoes": builder.add_texture(plain(rng, (236, 236, 232))),
        "face": builder.add_texture(face(rng, skin, hair)),
    }


def joint_names() -> tuple[str, ...]:
    return tuple(JOINTS)
