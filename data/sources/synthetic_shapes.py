"""The shape of cats and dogs: heads and poses as lists of parts, each with an outline.

A pose is a list of parts (tail, body, legs, head, eyes...), back to front. An outline is an array
of complex numbers x + yj, y pointing down: a * outline + b turns, scales and moves it. Lengths are
in head radii until a part is placed in the frame. Only shape tells a cat from a dog: ears, muzzle,
pupils, tail.
"""

from dataclasses import dataclass

import numpy as np

PINK, INK, WHITE = (226, 150, 150), (30, 24, 26), (255, 255, 255)


# --------------------------------------------------------------------------------------- - outlines


def oval(centre, rx, ry):
    """Ellipse outline around the complex `centre`, radii `rx` and `ry`."""
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return centre + rx * np.cos(t) + 1j * ry * np.sin(t)


def both_sides(right):
    """The points of the right half of a shape, top to bottom, then their mirror images, bottom to
    top."""
    return [*right, *(-z.conjugate() for z in right[::-1])]


def blob(*points):
    """Closed smooth curve (Catmull-Rom) through the complex `points`."""
    b = np.array(points)
    a, c, d = np.roll(b, 1), np.roll(b, -1), np.roll(b, -2)
    t = np.linspace(0, 1, 10, endpoint=False)[:, None]
    curve = b + 0.5 * (
        (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    )
    return curve.T.ravel()


def limb(spine, radii):
    """Tube with round ends along the Bezier curve of control points `spine`, `radii` being its
    half width."""
    t = np.linspace(0, 1, 24)
    z = np.array(spine, complex)[:, None] * np.ones(len(t))
    while len(z) > 1:
        z = (1 - t) * z[:-1] + t * z[1:]
    z, radius = z[0], np.interp(t, np.linspace(0, 1, len(radii)), radii)
    side = 1j * np.gradient(z)
    side *= radius / np.abs(side)
    cap = np.exp(-1j * np.linspace(0, np.pi, 9))
    return np.concatenate(
        [z + side, z[-1] + side[-1] * cap, (z - side)[::-1], z[0] - side[0] * cap]
    )


def tufted(rng, outline, size):
    """`outline` with tufts of fur of length `size` sticking out and gaps between them."""
    closed = np.append(outline, outline[0])
    arc = np.append(0, np.cumsum(np.abs(np.diff(closed))))
    at = np.linspace(0, arc[-1], max(12, int(arc[-1] / (1.3 * size))), endpoint=False)
    z = np.interp(at, arc, closed.real) + 1j * np.interp(at, arc, closed.imag)
    normal = 1j * (np.roll(z, -1) - np.roll(z, 1))
    return z + size * rng.uniform(-1, 1, len(z)) * normal / np.maximum(np.abs(normal), 1e-6)


@dataclass
class Part:
    """One outline of the pet, in its own frame: pixel = a * point + b once `a` and `b` are set."""

    kind: str  # body, chest, leg, paw, tail, head, ear, muzzle: what the coat's pattern goes by
    outline: np.ndarray  # complex points
    colour: tuple = None  # RGB; None: the coat
    shade: float = 1.0  # brightness, < 1 for legs and ears on the far side
    tuft: float = 0.035  # length of the tufts along the outline
    flow: float = None  # direction of the fur, radians; None: away from the nose
    in_mask: bool = True  # whiskers are not pet pixels, as in the real trimaps
    a: complex = 1.0
    b: complex = 0.0


# -------------------------------------------------------------------------------------------------
# ---- heads
# The centre of the skull is 0, its radius about 1; `turn` goes from 0 (facing us) to 1 (facing
# right).


def detail(outline, colour, in_mask=True):
    """A smooth part of the face in one colour."""
    return Part("muzzle", outline, colour, tuft=0, in_mask=in_mask)


def smile(at, width):
    """The two curves of a mouth that meet at `at`."""
    curves = (
        limb([at, at + s * width / 2 + 0.17j, at + s * width], [0.03, 0.018]) for s in (-1, 1)
    )
    return [detail(curve, INK) for curve in curves]


def cat_head(rng, turn):
    """Parts of a cat's head: pointed ears, wide round face, short muzzle, slit pupils, whiskers."""
    x, tip, parts = 0.35 * turn, rng.uniform(1.45, 1.75) * 1j, []
    for side in (-1, 1):
        triangle = np.array(
            [0.98 - 0.3j, 0.99 - 0.9j, 0.96 - tip, 0.88 - tip, 0.5 - 1.2j, 0.12 - 0.86j]
        )
        for ear, colour in ((triangle, None), (0.62 * triangle + 0.27 - 0.26j, PINK)):
            ear = side * ear.real * (1 - 0.3 * turn * (side > 0)) + 0.2 * x + 1j * ear.imag
            parts.append(Part("ear", ear, colour, tuft=0.025, flow=1.4))
    cheek = rng.uniform(1.06, 1.2)
    skull = both_sides(
        [0.05 - 0.92j, 0.7 - 0.72j, 1.03 - 0.1j, cheek + 0.38j, 0.62 + 0.8j, 0.05 + 0.9j]
    )
    parts += [Part("head", blob(*skull), tuft=0.05), Part("muzzle", oval(x + 0.68j, 0.24, 0.2))]
    parts += [Part("muzzle", oval(x + s * 0.22 + 0.46j, 0.29, 0.24)) for s in (-1, 1)]
    iris = [(126, 168, 74), (214, 174, 60), (104, 160, 190), (176, 116, 50)][rng.integers(4)]
    for s in (-1, 1):
        eye, narrow = 1.15 * x + s * 0.46 - 0.1j, 1 - 0.35 * turn * (s > 0)
        almond = blob(
            -0.27 + 0.04j, -0.1 - 0.2j, 0.12 - 0.2j, 0.27 - 0.04j, 0.12 + 0.17j, -0.12 + 0.18j
        )
        almond = almond.real * s * narrow + 1j * almond.imag
        slit = blob(-0.19j, 0.065 * narrow, 0.19j, -0.065 * narrow)
        parts += [
            detail(eye + 1.22 * almond, INK),
            detail(eye + almond, iris),
            detail(eye + slit, INK),
            detail(oval(eye - 0.07 - 0.08j, 0.05, 0.05), WHITE),
        ]
    nose = [PINK, (176, 104, 96), (80, 54, 54)][rng.integers(3)]
    parts += [
        detail(limb([x + 0.34j, x + 0.58j], [0.025, 0.02]), INK),
        *smile(x + 0.56j, 0.32),
        detail(blob(x - 0.15 + 0.22j, x + 0.15 + 0.22j, x + 0.37j), nose),
    ]
    for s in (-1, 1):
        for dy in (-1, 0, 1):
            end = x + s * rng.uniform(1.3, 1.5) + (0.48 + dy * 0.26) * 1j
            spine = [
                x + s * 0.34 + (0.45 + dy * 0.1) * 1j,
                x + s * 0.9 + (0.4 + dy * 0.12) * 1j,
                end,
            ]
            parts.append(detail(limb(spine, [0.02, 0.008]), (245, 242, 236), in_mask=False))
    return parts


DOG_EARS = [  # floppy, long, and folded: the last stands up and its tip falls to the front
    [0.4 - 0.88j, 0.85 - 0.95j, 1.3 - 0.4j, 1.36 + 0.35j, 1.1 + 0.62j, 0.86 + 0.25j, 0.74 - 0.3j],
    [0.4 - 0.82j, 0.85 - 0.85j, 1.15 - 0.2j, 1.42 + 0.6j, 1.2 + 1.1j, 0.84 + 0.75j, 0.72 - 0.2j],
    [0.35 - 0.8j, 0.62 - 1.2j, 1.05 - 1.22j, 1.4 - 0.72j, 1.32 - 0.42j, 1.05 - 0.62j, 0.85 - 0.3j],
]


def dog_head(rng, turn):
    """Parts of a dog's head: hanging or folded ears, long muzzle, big nose, round pupils, maybe a
    tongue."""
    style, drop, ears = rng.integers(3), rng.uniform(0.9, 1.15), []
    for side in (-1, 1):
        ear = np.array(DOG_EARS[style])
        # In a side view the near ear sits further on the skull and the far one is foreshortened.
        across = side * ear.real * (1 - 0.45 * turn * (side > 0)) + 0.28 * turn * (side < 0)
        down = np.where(ear.imag > 0, drop, 1) * ear.imag
        ears.append(Part("ear", blob(*(across + 1j * down)), shade=0.86, flow=1.5))
    skull = both_sides([0.1 - 0.95j, 0.62 - 0.82j, 0.9 - 0.15j, 0.72 + 0.5j, 0.1 + 0.85j])
    skull = Part("head", blob(*skull))
    tip = 1.3 * turn + (0.82 - 0.3 * turn) * 1j
    nose, mouth = tip - (0.3 - 0.12 * turn) * 1j + 0.14 * turn, tip + 0.19j - 0.05 * turn
    parts = [ears[1], skull, ears[0]] if style < 2 else [*ears, skull]
    if rng.random() < 0.55:
        end = mouth + rng.uniform(0.35, 0.55) * 1j + 0.05
        parts += [
            detail(limb([mouth, end], [0.17, 0.15]), (222, 104, 112)),
            detail(limb([mouth, end - 0.1j], [0.02, 0.02]), (178, 70, 84)),
        ]
    parts.append(Part("muzzle", limb([0.15 * turn + 0.15j, tip], [0.46, 0.5 - 0.14 * turn])))
    for s in (-1, 1):
        eye = 0.45 * turn + s * (0.42 - 0.1 * turn) - (0.2 + 0.12 * turn) * 1j
        if s < 0 or turn < 0.7:  # else the far eye is hidden behind the muzzle
            parts += [
                detail(oval(eye, 0.22, 0.21), INK),
                detail(oval(eye, 0.19, 0.18), (226, 216, 204)),
                detail(oval(eye + 0.02, 0.15, 0.16), (124, 78, 38)),
                detail(oval(eye + 0.02, 0.1, 0.1), INK),
                detail(oval(eye - 0.05 - 0.06j, 0.05, 0.05), WHITE),
                Part(
                    "muzzle",
                    limb([eye - 0.14 - 0.33j, eye + 0.14 - 0.33j], [0.05, 0.05]),
                    shade=1.1,
                ),
            ]
    if turn < 0.6:
        parts.append(detail(limb([nose, mouth], [0.03, 0.025]), INK))
    snout = nose + blob(-0.27 - 0.1j, 0.27 - 0.1j, 0.2 + 0.12j, 0.17j, -0.2 + 0.12j)
    shine = detail(oval(nose - 0.09 - 0.08j, 0.07, 0.035), (150, 146, 150))
    return [*parts, *smile(mouth, 0.42 - 0.2 * turn), detail(snout, INK), shine]


# -------------------------------------------------------------------------------------------------
# ---- poses
# The pet stands on y = 0 and looks right or at us. A pose returns parts, and the place and turn of
# the head.


def leg(spine, thick, ground=0.0, shade=1.0):
    """A leg along `spine` and its paw with toes, standing on y = `ground`."""
    x = spine[-1].real + 0.1 + 1j * ground
    toes = [limb([x + d - 0.16j, x + d - 0.03j], [0.022, 0.022]) for d in (-0.08, 0.1)]
    return [
        Part("leg", limb(spine, [thick, 0.21]), shade=shade, flow=1.57),
        Part("paw", oval(x - 0.15j, 0.31, 0.19), shade=shade, flow=0.0),
        *(Part("paw", toe, INK, tuft=0) for toe in toes),
    ]


def tail(rng, cat, root, angle=0.0):
    """A long thin S for a cat, a shorter thick sickle for a dog."""
    spine = np.array([0, -1.2 + 0.3j, -0.7 - 1.5j, -1.6 - 1.8j] if cat else [0, -0.9, -0.9 - 1.1j])
    spine = root + spine * np.exp(1j * (angle + rng.normal(0, 0.2)))
    radii = [0.18, 0.16, 0.14, 0.1] if cat else [0.28, 0.26, 0.1]
    return Part("tail", limb(spine, radii), tuft=0.04 if cat else 0.09, flow=0.8)


def sitting(rng, cat):
    """Sitting, seen from the front."""
    w = rng.uniform(0.88, 1.15)
    trunk = both_sides([0.5 - 2.3j, 0.8 * w - 1.4j, 1.1 * w - 0.5j, 0.75 * w + 0j])
    parts = [tail(rng, cat, -0.9 - 0.3j), Part("body", blob(*trunk), tuft=0.05, flow=1.5)]
    for s in (-1, 1):
        parts += [
            *leg([s * 0.85 * w - 0.4j, s * 0.95 * w - 0.1 - 0.2j], 0.3, 0.02),
            Part("body", oval(s * 0.82 * w - 0.55j, 0.46, 0.5), flow=1.2),
        ]
    parts.append(Part("chest", oval(-1.6j, 0.5, 0.75), tuft=0.07, flow=1.57))
    for s in (-1, 1):
        parts += leg([s * 0.3 - 1.45j, s * 0.33 - 0.07 - 0.2j], 0.27, 0.06)
    return parts, rng.uniform(-0.2, 0.2) - (2.85 if cat else 2.95) * 1j, rng.uniform(0, 0.45)


def standing(rng, cat):
    """Standing, seen from the side."""
    y = -1j * (rng.uniform(0.75, 1.0) if cat else rng.uniform(0.8, 1.3))  # top of the legs
    trunk = [
        -1.85 - 0.75j,
        -1.2 - 1.28j,
        0.2 - 1.15j,
        1.1 - 1.35j,
        1.6 - 0.75j,
        1.2,
        0.1 - 0.08j,
        -1.2,
    ]
    parts = [tail(rng, cat, -1.5 + y - 1j)]
    for x in (-0.85, 0.75):
        parts += leg([x + y - 0.4j, x + 0.05 - 0.15j], 0.3, -0.06, shade=0.7)
    parts += [
        Part("body", blob(*(y + np.array(trunk))), tuft=0.05, flow=0.15),
        Part("body", oval(-1.25 + y - 0.5j, 0.55, 0.62), flow=0.9),
    ]
    for x, knee in ((-1.4, -0.15), (1.05, 0.05)):
        parts += leg([x + y - 0.35j, x + knee + y / 2, x + 0.02 - 0.15j], 0.36)
    parts.append(
        Part("chest", limb([1.1 + y - 0.65j, 1.55 + y - 1.6j], [0.6, 0.5]), tuft=0.07, flow=1.2)
    )
    return parts, 1.7 + y - rng.uniform(1.75, 2.05) * 1j, rng.uniform(0.1, 0.7) + (not cat) * 0.3


def lying(rng, cat):
    """Lying on the belly, front paws stretched out."""
    trunk = [-2.0 - 0.6j, -1.5 - 1.3j, -1.4j, 1.0 - 1.65j, 1.5 - 0.8j, 1.1, -1.7]
    parts = [
        tail(rng, cat, -1.8 - 0.35j, -0.35),
        *leg([0.9 - 0.5j, 2.1 - 0.25j], 0.33, -0.1, shade=0.75),
        Part("body", blob(*trunk), tuft=0.05, flow=0.1),
        *leg([-1.3 - 0.3j, -0.85 - 0.15j], 0.3, 0.02),
        Part("body", oval(-1.25 - 0.6j, 0.72, 0.6), flow=0.7),
        Part("chest", oval(1.05 - 0.95j, 0.5, 0.75), tuft=0.07, flow=1.5),
        *leg([0.75 - 0.35j, 1.85 - 0.17j], 0.33, 0.04),
    ]
    return parts, 1.15 - rng.uniform(1.85, 2.15) * 1j, rng.uniform(0, 0.7)


def portrait(rng, cat):
    """Head and shoulders; the frame cuts the rest."""
    trunk = both_sides([0.6 - 2.3j, 1.2 - 1.2j, 1.45 + 1j])
    parts = [
        Part("body", rng.uniform(0.92, 1.08) * blob(*trunk), tuft=0.06, flow=1.57),
        Part("chest", oval(-0.9j, 0.6, 1.0), tuft=0.08, flow=1.57),
    ]
    return parts, rng.uniform(-0.15, 0.15) - 2.8j, rng.uniform(0, 0.6 if cat else 0.9)


def posed(rng, species):
    """A pet's parts, the box to frame (left, top, right, bottom), whether the frame cuts the pet
    below it."""
    pose = rng.choice([sitting, standing, lying, portrait], p=[0.34, 0.24, 0.2, 0.22])
    body, neck, turn = pose(rng, species == "cat")
    head = (cat_head if species == "cat" else dog_head)(rng, turn)
    tilt, lean = (
        rng.uniform(0.95, 1.1) * np.exp(1j * rng.normal(0, 0.12)),
        np.exp(1j * rng.normal(0, 0.07)),
    )
    for part in body:
        part.a = lean
    for part in head:
        part.a, part.b = lean * tilt, lean * neck
    points = np.concatenate(
        [part.a * part.outline + part.b for part in body + head if part.in_mask]
    )
    bottom = -0.3 if pose is portrait else points.imag.max()
    return (
        body + head,
        (points.real.min(), points.imag.min(), points.real.max(), bottom),
        pose is portrait,
    )
