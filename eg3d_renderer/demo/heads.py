"""A head as numbers, and how a latent sets them.

Head units: 1 is about 10 cm. The eyes lie at y = 0, the crown near y = 1.15, the chin near
y = -1.1; x points to the subject's left, z out of the face.
"""

import dataclasses

from eg3d_renderer.demo.hair import HAIRCUTS

IDENTITY = 40  # dimensions of w that make a head


@dataclasses.dataclass(frozen=True)
class Head:
    """What makes a head. Lengths in head units; tones, hues and volumes from -1 to 1."""

    male: float
    cranium: tuple[float, float, float]  # radii
    face_length: float
    jaw: float  # x of the jaw's angle
    chin: float
    cheekbone: float
    fullness: float
    brow_ridge: float
    eye_x: float
    eye_radius: float
    iris: float
    lid_up: float  # slopes of the planes through the eye that cut the lids
    lid_down: float
    eye_tilt: float
    socket: float
    brow_y: float
    brow_slope: float
    brow: float
    nose_y: float
    nose_z: float
    nose_bridge: float
    nose: float
    nostril_x: float
    mouth_width: float
    lip: float
    smile: float
    ear: float
    ear_angle: float
    ear_point: float  # height of a wolf's ear, 0 for a human one
    neck: float
    muzzle: float
    skin_tone: float
    skin_hue: float
    freckles: float
    hair_hue: float
    hair_tone: float
    iris_hue: float
    haircut: str
    volume: float
    beard: float  # thickness, 0 for none
    moustache: float
    glasses: float  # radius, 0 for none
    hat: str
    hat_hue: float
    cloth_hue: float
    cloth_tone: float
    neckline: float


def head_from(w: list[float]) -> Head:
    """The head of an identity code: 40 numbers in (-1, 1), all zero is the mean head."""
    male = w[0]
    bearded = male > 0.1 and w[33] > 0
    hat = "brim" if w[36] > 0.84 else "beanie" if w[36] > 0.68 else "none"
    return Head(
        male=male,
        cranium=(0.77 + 0.035 * w[1], 0.82 + 0.04 * w[2], 0.92 + 0.05 * w[3]),
        face_length=0.05 * w[4],
        jaw=0.47 + 0.04 * male + 0.05 * w[5],
        chin=0.155 + 0.02 * male + 0.02 * w[6],
        cheekbone=0.21 + 0.03 * w[7],
        fullness=0.20 + 0.05 * w[8] - 0.01 * male,
        brow_ridge=0.085 + 0.018 * male,
        eye_x=0.315 + 0.02 * w[9],
        eye_radius=0.148 + 0.012 * w[10] - 0.005 * male,
        iris=0.074,
        lid_up=0.44 + 0.16 * w[11] - 0.06 * male,
        lid_down=0.30 + 0.08 * w[11],
        eye_tilt=0.05 + 0.12 * w[12],
        socket=0.20,
        brow_y=0.225 + 0.025 * w[13] - 0.02 * male,
        brow_slope=0.03 + 0.10 * w[13] - 0.05 * male,
        brow=0.030 + 0.008 * w[25] + 0.006 * male,
        nose_y=-0.34 - 0.03 * w[15],
        nose_z=0.95 + 0.04 * w[16],
        nose_bridge=0.03 * w[18],
        nose=0.085 * (1 + 0.14 * w[17] + 0.07 * male),
        nostril_x=0.092 * (1 + 0.25 * w[17]),
        mouth_width=0.265 + 0.03 * w[19],
        lip=1 + 0.25 * w[20] - 0.15 * male,
        smile=0.65 + 0.95 * w[21],
        ear=1 + 0.14 * w[22],
        ear_angle=0.32 + 0.16 * w[23],
        ear_point=0.0,
        neck=0.41 + 0.05 * male + 0.02 * w[24],
        muzzle=0.0,
        skin_tone=w[14],
        skin_hue=w[26],
        freckles=max(0.0, w[39] - 0.3),
        hair_hue=w[27],
        hair_tone=min(w[28], 0.9 + 1.5 * w[14] + 0.4 * w[28]),  # dark skin, dark hair
        iris_hue=min(w[29], 0.7 + 1.5 * w[14] + 0.4 * w[29]),
        haircut=HAIRCUTS[min(int((w[30] + 1) / 2 * len(HAIRCUTS)), len(HAIRCUTS) - 1)],
        volume=w[31],
        beard=0.09 + 0.05 * w[34] if bearded else 0.0,
        moustache=0.045 if bearded or (male > 0.3 and w[33] < -0.5) else 0.0,
        glasses=0.20 + 0.02 * w[35] if w[35] > 0.6 else 0.0,
        hat=hat,
        hat_hue=12.5 * w[36] % 2 - 1,  # all hues for either kind
        cloth_hue=w[37],
        cloth_tone=w[38],
        neckline=w[32],
    )
