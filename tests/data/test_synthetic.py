"""The drawn pets: layout, determinism, and that neither colour nor brightness gives the answer away."""

import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from data.sources import synthetic  # noqa: E402

N = 300


class Pet:
    """One image of a drawn dataset with its annotations, read back from disk."""

    def __init__(self, root, line):
        self.name, *ids = line.split()
        self.class_id, self.species, self.breed = map(int, ids)
        self.image = np.asarray(Image.open(root / "images" / f"{self.name}.jpg"))
        self.trimap = np.asarray(Image.open(root / "annotations" / "trimaps" / f"{self.name}.png"))
        self.pet = self.trimap != synthetic.BACKGROUND
        xml = root / "annotations" / "xmls" / f"{self.name}.xml"
        self.xml = ElementTree.parse(xml).getroot() if xml.exists() else None

    def box(self):
        corners = self.xml.find("object/bndbox")
        return [int(corners.find(tag).text) for tag in ("xmin", "ymin", "xmax", "ymax")]


def listed(root):
    """The lines of list.txt that name an image."""
    lines = (root / "annotations" / "list.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pets")
    synthetic.draw_dataset(folder, N, seed=0, processes=2)
    return folder


@pytest.fixture(scope="module")
def pets(root):
    return [Pet(root, line) for line in listed(root)]


def contents(root):
    """Bytes of every file below `root` except list.txt, by relative path."""
    files = (path for path in Path(root).rglob("*") if path.is_file() and path.name != "list.txt")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    folder = tmp_path_factory.mktemp("four")
    synthetic.draw_dataset(folder, 4, seed=5, processes=1)
    return contents(folder)


# ---------------------------------------------------------------------------------------------------- layout


def test_list_names_every_image_once_and_nothing_else(root, pets):
    names = [pet.name for pet in pets]
    assert len(set(names)) == N
    assert {path.stem for path in (root / "images").iterdir()} == set(names)
    assert {path.stem for path in (root / "annotations" / "trimaps").iterdir()} == set(names)
    assert {path.stem for path in (root / "annotations" / "xmls").iterdir()} <= set(names)


def test_list_begins_with_comments(root):
    assert (root / "annotations" / "list.txt").read_text().startswith("#")


def test_capital_first_letter_means_cat(pets):
    for pet in pets:
        assert pet.name[0].isupper() == (pet.species == 1), pet.name


def test_ids_belong_to_breeds(pets):
    breed_of = {}
    for pet in pets:
        breed = pet.name.rsplit("_", 1)[0]
        assert breed_of.setdefault(pet.class_id, breed) == breed
        assert breed_of.setdefault((pet.species, pet.breed), breed) == breed
    classes = sorted(key for key in breed_of if isinstance(key, int))
    assert classes == list(range(1, len(synthetic.BREEDS) + 1))


def test_species_and_breeds_are_balanced(pets):
    assert Counter(pet.species for pet in pets) == {1: N // 2, 2: N // 2}
    per_breed = Counter(pet.class_id for pet in pets).values()
    assert max(per_breed) - min(per_breed) <= 1


def test_images_are_rgb_and_trimaps_fit_them(pets):
    for pet in pets:
        assert pet.image.dtype == pet.trimap.dtype == np.uint8
        assert pet.image.shape == (*pet.trimap.shape, 3)
        assert set(np.unique(pet.trimap)) == {synthetic.PET, synthetic.BACKGROUND, synthetic.BORDER}


def test_sizes_and_shapes_vary(pets):
    sizes = np.array([pet.trimap.shape for pet in pets])
    assert sizes.max(1).min() >= 200 and sizes.max() <= 400
    assert len(np.unique(sizes, axis=0)) > N / 2
    aspect = sizes[:, 1] / sizes[:, 0]
    assert aspect.min() < 0.8 and aspect.max() > 1.25


def test_border_separates_pet_from_background(pets):
    for pet in pets:
        inside, outside = pet.trimap == synthetic.PET, pet.trimap == synthetic.BACKGROUND
        assert not (inside[1:] & outside[:-1]).any() and not (inside[:-1] & outside[1:]).any()
        assert (
            not (inside[:, 1:] & outside[:, :-1]).any()
            and not (inside[:, :-1] & outside[:, 1:]).any()
        )


def test_coverage_is_that_of_photographs(pets):
    coverage = np.array([pet.pet.mean() for pet in pets])
    assert 0.25 < coverage.mean() < 0.45
    assert coverage.min() > 0.05 and coverage.max() < 0.8


def test_head_boxes_lie_in_the_frame_and_on_the_pet(pets):
    for pet in pets:
        if pet.xml is None:
            continue
        left, top, right, bottom = pet.box()
        height, width = pet.trimap.shape
        assert left >= 0 and left + 8 <= right <= width and top >= 0 and top + 8 <= bottom <= height
        assert pet.pet[top:bottom, left:right].mean() > 0.4, pet.name
        assert max((right - left) / width, (bottom - top) / height) > 0.18, pet.name
        size = [int(pet.xml.find(f"size/{tag}").text) for tag in ("width", "height", "depth")]
        assert size == [width, height, 3]
        assert pet.xml.find("object/name").text == ("cat" if pet.species == 1 else "dog")


def test_some_images_have_no_head_box(pets):
    assert 0 < sum(pet.xml is None for pet in pets) < 0.05 * N


# ----------------------------------------------------------------------------------------------- determinism


def test_same_seed_same_bytes_with_any_number_of_processes(four, tmp_path):
    synthetic.draw_dataset(tmp_path, 4, seed=5, processes=2)
    assert contents(tmp_path) == four


def test_other_seed_other_images(four, tmp_path):
    synthetic.draw_dataset(tmp_path, 4, seed=6, processes=1)
    other = contents(tmp_path)
    images = [path for path in four if path.endswith(".jpg")]
    assert len(images) == 4
    for path in images:
        assert other[path] != four[path]


def test_larger_dataset_begins_with_the_same_images(four, tmp_path):
    synthetic.draw_dataset(tmp_path, 8, seed=5, processes=1)
    eight = contents(tmp_path)
    assert len(listed(tmp_path)) == 8
    assert {path: eight[path] for path in four} == four


def test_redrawing_replaces_the_pets_and_only_them(four, tmp_path):
    synthetic.draw_dataset(tmp_path, 8, seed=6, processes=1)
    stale = tmp_path / "annotations" / "xmls" / f"{synthetic.image_name(7)[0]}.xml"
    stale.write_text("<annotation/>")
    photo = tmp_path / "images" / "Abyssinian_1.jpg"
    photo.write_bytes(b"not one of ours")
    synthetic.draw_dataset(tmp_path, 4, seed=5, processes=1)
    assert photo.read_bytes() == b"not one of ours"
    photo.unlink()
    assert contents(tmp_path) == four


@pytest.mark.parametrize("n, processes", [(0, 1), (-3, None), (2, 0)])
def test_nothing_to_draw_is_an_error(tmp_path, n, processes):
    with pytest.raises(ValueError, match="at least 1"):
        synthetic.draw_dataset(tmp_path / "none", n, processes=processes)
    assert not (tmp_path / "none").exists()


# ----------------------------------------------------------------------------------------------- not a trick


def held_out_accuracy(features, labels):
    """Accuracy on the last third of a logistic regression fitted by Newton steps to the first two thirds."""
    order = np.random.default_rng(0).permutation(len(labels))
    features, labels = features[order], labels[order]
    x = np.column_stack([(features - features.mean(0)) / features.std(0), np.ones(len(labels))])
    fit = len(labels) * 2 // 3
    weights = np.zeros(x.shape[1])
    for _ in range(15):
        p = 1 / (1 + np.exp(-x[:fit] @ weights))
        hessian = (x[:fit].T * (p * (1 - p))) @ x[:fit] + 1e-3 * np.eye(len(weights))
        weights -= np.linalg.solve(hessian, x[:fit].T @ (p - labels[:fit]) + 1e-3 * weights)
    return ((x[fit:] @ weights > 0) == (labels[fit:] > 0)).mean()


@pytest.mark.parametrize("of", ["image", "pet"])
def test_mean_colour_does_not_tell_the_species(pets, of):
    colours = [pet.image[pet.pet if of == "pet" else pet.trimap > 0].mean(0) for pet in pets]
    species = np.array([pet.species == 1 for pet in pets], float)
    assert held_out_accuracy(np.array(colours), species) < 0.7


def test_logistic_regression_finds_a_colour_that_does_tell():
    rng = np.random.default_rng(1)
    species = np.arange(300) % 2.0
    assert held_out_accuracy(rng.normal(species[:, None], 0.3, (300, 3)), species) > 0.9


def test_no_brightness_threshold_segments_the_pets(pets):
    brighter = np.zeros(257)  # mean Dice of "pet = brighter than t" for t = -1..255
    darker = np.zeros(257)
    for pet in pets:
        grey = pet.image.mean(2).round().astype(int)
        below_all = np.append(0, np.bincount(grey.ravel(), minlength=256).cumsum())
        below_pet = np.append(0, np.bincount(grey[pet.pet], minlength=256).cumsum())
        area = pet.pet.sum()
        darker += 2 * below_pet / (below_all + area) / N
        brighter += 2 * (area - below_pet) / (grey.size - below_all + area) / N
    assert max(darker.max(), brighter.max()) < 0.6


def test_no_two_images_are_nearly_the_same(pets):
    thumbnails = [Image.fromarray(pet.image).convert("L").resize((9, 8)) for pet in pets]
    bits = np.array([np.diff(np.asarray(thumbnail, int)).ravel() > 0 for thumbnail in thumbnails])
    distance = (bits[:, None] != bits).sum(2) + 64 * np.eye(N, dtype=int)
    assert distance.min() > 6
