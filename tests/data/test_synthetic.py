"""The drawn pets: layout, determinism, and that neither colour nor brightness gives the answer
away."""

import sys
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


# --------------------------------------------------------------------------------------- --- layout


def test_list_names_every_image_once_and_nothing_else(root, pets):
    names = [pet.name for pet in pets]
    assert len(set(names)) == N
    assert {path.stem for path in (root / "images").iterdir()} == set(names)
    assert {path.stem for path in (root / "annotations" / "trimaps").iterdir()} == set(names)
    assert {path.stem for path in (root / "annotations" / "xmls").iterdir()} <= set(names)


def test_ids_belong_to_breeds(pets):
    breed_of = {}
    for pet in pets:
        breed = pet.name.rsplit("_", 1)[0]
        assert breed_of.setdefault(pet.class_id, breed) == breed
        assert breed_of.setdefault((pet.species, pet.breed), breed) == breed
    classes = sorted(key for key in breed_of if isinstance(key, int))
    assert classes == list(range(1, len(synthetic.BREEDS) + 1))


def test_border_separates_pet_from_background(pets):
    for pet in pets:
        inside, outside = pet.trimap == synthetic.PET, pet.trimap == synthetic.BACKGROUND
        assert not (inside[1:] & outside[:-1]).any() and not (inside[:-1] & outside[1:]).any()
        assert (
            not (inside[:, 1:] & outside[:, :-1]).any()
            and not (inside[:, :-1] & outside[:, 1:]).any()
        )


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


# -------------------------------------------------------------------------------------- determinism


def test_same_seed_same_bytes_with_any_number_of_processes(four, tmp_path):
    synthetic.draw_dataset(tmp_path, 4, seed=5, processes=2)
    assert contents(tmp_path) == four


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


# -------------------------------------------------------------------------------------- not a trick


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
