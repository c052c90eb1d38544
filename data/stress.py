"""A split made harder by rule: the same photographs with pets that are small or crowded, dark, blurred, turned, compressed, gone.

What KINDS says is done to every image alike; what is drawn, a place, hangs on the image alone. In place of data/scenes.py's
Scenes it makes an MTLDataset one of such images, which evaluates as any other.
"""

from data import pixels, scenes

PET_AREA = 0.1  # of the frame, that a small pet has; one that is smaller anyway stays as it is
DARK, NOISE = 0.25, 6.0
BLUR = 3.0  # deviation of the Gaussian in pixels of a picture of scenes.REFERENCE
QUALITY = 10  # of the JPEG
KINDS = {
    "as it is": "",
    "small": "shrunk until the pet has a tenth of the picture, on another photograph whose pet is painted over",
    "crowded": "four photographs in one",
    "dark": "a quarter of the light, noise of a deviation of 6 of 255",
    "blurred": "a Gaussian of a deviation of 3 of 256 pixels",
    "turned": "by 90 degrees",
    "compressed": "a JPEG of quality 10",
    "empty": "the pet painted over with what surrounds it",
}


class Stress:
    """One of KINDS for every image of a dataset, in the form of scenes.Scenes."""

    def __init__(self, kind):
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {tuple(KINDS)} and was {kind!r}")
        self.kind = kind

    def place(self, pictures, row, n, read, rng):
        others = [(row + max(1, n * k // 4)) % n for k in (1, 2, 3)]
        if self.kind == "small":
            share = (pictures["masks"] == 1).float().mean().item()
            return scenes.small(
                pictures, read(others[1]), min(1, PET_AREA / share) if share else 1, rng.random(2)
            )
        if self.kind == "crowded":
            half = pictures["images"].shape[-1] // 2
            return scenes.mosaic([pictures, *map(read, others)], half, half), scenes.Change(
                others=tuple(others)
            )
        if self.kind == "turned":
            return scenes.turned(pictures, scenes.Change(), 1)
        if self.kind == "empty":
            ground = scenes.without_pet(pictures)
            if ground is not None:
                return scenes.nothing(pictures, ground), scenes.Change(is_empty=True)
        return pictures, scenes.Change()

    def take(self, image, rng):
        if self.kind == "dark":
            return pixels.lit(image, 1, (DARK,) * 3, NOISE, rng)
        if self.kind == "blurred":
            return pixels.blurred(image, BLUR * min(image.shape[-2:]) / scenes.REFERENCE)
        if self.kind == "compressed":
            return pixels.compressed(image, QUALITY)
        return image
