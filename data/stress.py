"""A split made harder by rule: the same photographs with pets that are small or crowded, dark,
blurred, turned, compressed, gone.

What KINDS says is done to every image alike; what is drawn, a place, depends on the image alone. As
the `hard_augment` of a Sampling it makes an MTLDataset one of such images, which evaluates as any
other.
"""

from data import hard_augment, pixels

PET_AREA = 0.1  # of the frame, that a small pet has; one that is smaller anyway stays as it is
DARK, NOISE = 0.25, 6.0
BLUR = 3.0  # deviation of the Gaussian in pixels of a picture of hard_augment.REFERENCE
QUALITY = 10  # of the JPEG
KINDS = {
    "as it is": "",
    "small": "the pet has a tenth of the picture, on another photograph, its pet painted over",
    "crowded": "four photographs in one",
    "dark": "a quarter of the light, noise of a deviation of 6 of 255",
    "blurred": "a Gaussian of a deviation of 3 of 256 pixels",
    "turned": "by 90 degrees",
    "compressed": "a JPEG of quality 10",
    "empty": "the pet painted over with what surrounds it",
}


class Stress:
    """One of KINDS for every image of a dataset, in the form of hard_augment.HardAugment."""

    def __init__(self, kind):
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {tuple(KINDS)} and was {kind!r}")
        self.kind = kind

    def place(self, sample, row, n, read, rng):
        others = [(row + max(1, n * k // 4)) % n for k in (1, 2, 3)]
        if self.kind == "small":
            share = (sample["masks"] == 1).float().mean().item()
            area = min(1, PET_AREA / share) if share else 1
            return hard_augment.small(sample, read(others[1]), area, rng.random(2))
        if self.kind == "crowded":
            half = sample["images"].shape[-1] // 2
            return hard_augment.mosaic([sample, *map(read, others)], half, half)
        if self.kind == "turned":
            return hard_augment.turned(sample, 1)
        ground = hard_augment.without_pet(sample) if self.kind == "empty" else None
        return sample if ground is None else hard_augment.bare(sample, ground)

    def take(self, image, rng):
        if self.kind == "dark":
            return pixels.lit(image, 1, (DARK,) * 3, NOISE, rng)
        if self.kind == "blurred":
            return pixels.blurred(image, BLUR * min(image.shape[-2:]) / hard_augment.REFERENCE)
        if self.kind == "compressed":
            return pixels.compressed(image, QUALITY)
        return image
