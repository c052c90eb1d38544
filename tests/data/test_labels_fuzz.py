"""Labels at random: whatever a tool does to names, ids, outlines and values, what is stored is
right, unlabelled and named, or refused in one sentence; and the labels that went in are those that
the report counts."""

import csv
import json
from concurrent.futures import Future
from contextlib import contextmanager

import h5py
import numpy as np
import pytest
from oxford import noise
from PIL import Image
from test_labels_in import fates

import cli
import data_prepare
from cli import InputError

SIDE, N = 32, 4
SPELLINGS = (
    lambda n: n,
    lambda n: n.upper(),
    lambda n: rf"..\up\{n}",
    lambda n: f"https://h/b/{n}?x=1",
    lambda n: f"/data/local-files/?d=a/{n}",
    lambda n: f"./{n}",
    lambda n: f"0a1b2c3d-{n}",
)


class Alone:
    """A pool that does at once what is submitted."""

    def submit(self, function, item):
        future = Future()
        future.set_result(function(item))
        return future


@contextmanager
def alone(*_):
    yield Alone()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    place = tmp_path_factory.mktemp("pictures")
    for k in range(N):
        noise(f"fuzz {k}", SIDE, SIDE).save(place / f"p{k}.png")
    return place


def rectangle(rng):
    """x1, y1, x2, y2 with room around."""
    x, y = rng.integers(2, 14, 2).tolist()
    w, h = rng.integers(4, 15, 2).tolist()
    return x, y, x + w, y + h


def mask_of(box):
    mask = np.zeros((SIDE, SIDE), bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def ring(box):
    x1, y1, x2, y2 = box
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def some(rng, *choices):
    return choices[rng.integers(len(choices))]


def runs(mask):
    """Uncompressed run lengths, down the columns."""
    flat = np.concatenate([[0], mask.ravel("F").astype(int), [1 - mask.ravel("F")[-1].astype(int)]])
    ends = np.flatnonzero(np.diff(flat))
    return {"size": [SIDE, SIDE], "counts": np.diff(np.concatenate([[0], ends])).tolist()}


def coco(rng, place, photos, boxes):
    """A COCO file with odd habits; returns options and what is known of every photograph: a box,
    None or "refused"."""
    spell, form = some(rng, *SPELLINGS), some(rng, int, str, float)
    frame = some(rng, SIDE, SIDE, str(SIDE), None, 0)
    images = [
        {"id": k, "file_name": spell(f"p{k}.png"), "width": frame, "height": frame}
        for k in range(N)
    ]
    annotations, known, options = [], dict(enumerate(boxes)), []
    flag = some(rng, 0, "0", "false", False, None, 1)
    for k, box in enumerate(boxes):
        outline = some(rng, [ring(box)], [ring(box), [3, 3]], runs(mask_of(box)), None)
        one = {"id": form(k), "image_id": form(k), "category_id": form(1), "iscrowd": flag}
        fault = rng.integers(12)
        if outline is None:  # nothing of a photograph whose object has no outline
            known[k] = None
        if fault == 0:
            outline = [[v * 6 for v in ring(box)]]
            known[k] = "refused"
        elif fault == 1:
            outline, known[k] = [[5, 5, 5, 5, 5, 5]], None
        elif fault == 2:
            outline = {"size": [SIDE, SIDE], "counts": [5, 5]}
            known[k] = "refused"
        one["segmentation"] = outline if outline is not None else []
        x1, y1, x2, y2 = box
        bbox = some(rng, [x1, y1, x2 - x1, y2 - y1], [x1, y1, x2, y2], None)
        if bbox and not (outline is None and bbox[2:] == [x2, y2]):
            one["bbox"] = bbox
        annotations.append(one)
    if rng.integers(4) == 0:
        images.append({"id": 77, "file_name": "gone.png", "width": SIDE, "height": SIDE})
        annotations.append({"id": 88, "image_id": form(77), "category_id": 1, "segmentation": []})
        options = ["--leave-out"] if rng.integers(2) else []
        known["gone"] = "refused"
    categories = [{"id": 1, "name": "pet"}, {"id": 2, "name": "other"}]
    if rng.integers(3) == 0:
        more = {"segmentation": [ring(rectangle(rng))], "category_id": 2, "image_id": form(0)}
        annotations.append({"id": 99, **more})
        options += ["--foreground", some(rng, "pet", "PET")]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (place / "c.json").write_text(json.dumps(content))
    return ["--images", photos, "--coco", place / "c.json", *options], known


def images(rng, place, photos, boxes):
    """A folder of masks in one of many forms."""
    (place / "masks").mkdir()
    known, options = dict(enumerate(boxes)), []
    low, high = some(rng, (0, 255), (0, 1), (0, 7), (255, 0), (0, 300), (40, 200))
    suffix = some(rng, "", "_mask", ".png")
    ending = some(rng, ".png", ".tif", ".jpg") if (low, high) == (0, 255) else ".png"
    words = {7: ["--foreground", some(rng, "7", "all")], 300: ["--foreground", "all"]}
    words |= {0: ["--foreground", "0"], 200: ["--threshold", "128"]}
    options += words.get(high, [])
    if ending == ".jpg":
        options = (
            ["--threshold", "128"] if rng.integers(3) else some(rng, [], ["--foreground", "255"])
        )
        known = known if "--threshold" in options else dict.fromkeys(known, "refused")
    for k, box in enumerate(boxes):
        kind = np.uint16 if high == 300 else np.uint8
        values = np.where(mask_of(box), high, low).astype(kind)
        if rng.integers(12) == 0:  # of another shape
            values, known[k] = values[:, :-9], "refused"
        if rng.integers(8) == 0:
            known[k] = None
        else:
            Image.fromarray(values).save(place / "masks" / f"p{k}{suffix}{ending}")
    if suffix == "_mask":
        options += ["--mask-suffix", some(rng, "_mask", "_MASK")]
    if "refused" in known.values() and rng.integers(2):
        options.append("--leave-out")
    return ["--images", photos, "--masks", place / "masks", *options], known


def voc(rng, place, photos, boxes):
    """A VOC folder of one class, of VOC's list or not."""
    number, called = some(rng, (1, "leaf"), (13, "horse"), (13, "Horse"), (200, "My Pet"))
    words = some(rng, [], ["all"], [str(number)], [called.upper()])
    (place / "SegmentationClass").mkdir()
    (place / "Annotations").mkdir()
    (place / "JPEGImages").symlink_to(photos)
    known = dict(enumerate(boxes))
    for k, box in enumerate(boxes):
        values = mask_of(box) * np.uint8(number)
        if rng.integers(8):
            Image.fromarray(values).save(place / "SegmentationClass" / f"p{k}.png")
        else:
            known[k] = None
        corners = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        inner = "".join(f"<{key}>{value}</{key}>" for key, value in corners)
        text = f"<object><name>{called}</name><bndbox>{inner}</bndbox></object>"
        text = text * (1 + (rng.integers(8) == 0))
        (place / "Annotations" / f"p{k}.xml").write_text(f"<annotation>{text}</annotation>")
    return ["--voc", place, *(["--foreground", *words] if words else [])], known


def labels(rng, place, photos, boxes):
    """A table of boxes and of an age, which is 10 + k where it is known."""
    mark, spell = some(rng, ",", ";", "\t"), some(rng, *SPELLINGS)
    scale = some(rng, 1, SIDE)
    unknown, rows = some(rng, "", "NA", "null", "--", "nan"), []
    comma = mark != "," and rng.integers(2)
    for k, box in enumerate(boxes):
        age = unknown if k == 3 else str(10 + k)
        if k == 0 and rng.integers(9) == 0:
            age = "old"
        cells = [f"{value / scale:.6f}".replace(".", "," if comma else ".") for value in box]
        rows.append(mark.join([f'"{spell(f"p{k}.png")}"', age, *cells]))
    head = mark.join(["filename", "age", "xmin", "ymin", "xmax", "ymax"])
    (place / "l.csv").write_text("\n".join([head, *rows]), encoding=some(rng, "utf-8", "utf-8-sig"))
    return ["--images", photos, "--labels", place / "l.csv"], dict(enumerate(boxes))


def stored(out):
    files = {}
    for kind in ("masks", "bboxes"):
        if (out / "test" / f"{kind}.h5").exists():
            with h5py.File(out / "test" / f"{kind}.h5") as file:
                files[kind] = file[kind][:]
    with open(out / "test" / "index.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        row["name"]: row | {kind: a[k] for kind, a in files.items()} for k, row in enumerate(rows)
    }


def judge(kind, found, known, said):
    """Right, or unknown and named; never wrong without a word."""
    for k in range(N):
        name, box = f"p{k}", known[k]
        if name not in found:
            assert name in said, (name, "is gone without a word")
            continue
        row = found[name]
        mask = row.get("masks")
        is_masked = mask is not None and (mask != 255).any()
        if is_masked:
            right = (
                np.zeros((SIDE, SIDE), bool)
                if isinstance(box, str) or box is None
                else mask_of(box)
            )
            assert ((mask[..., 0] == 1) == right).all(), (name, "has another mask")
        elif kind in ("coco", "images") and box is not None:
            assert name in said, (name, "is unlabelled without a word")
        if "bboxes" in row and not np.isnan(row["bboxes"]).any():
            assert known["boxes"][k] == pytest.approx(row["bboxes"].tolist(), abs=0.01), (
                name,
                "box",
            )
        if kind == "labels" and row["age"]:
            assert row["age"] == str(10 + k)


def try_case(kind, seed, pictures, place, capsys):
    """One case; returns whether it was refused."""
    rng = np.random.default_rng((seed, sorted(KINDS).index(kind)))
    place.mkdir()
    boxes = [rectangle(rng) for _ in range(N)]
    options, known = KINDS[kind](rng, place, pictures, boxes)
    known["boxes"] = boxes
    argv = [*map(str, options), "--size", str(SIDE), "--fractions", "0-0-100"]
    try:
        data_prepare.main(
            data_prepare.parse_args([*argv, "--out", str(place.with_suffix(".data"))])
        )
    except InputError as error:
        assert "\n" not in str(error) and ";" in str(error)
        capsys.readouterr()
        may = (
            "refused" in known.values()
            or kind == "labels"
            or all(v is None for v in known.values())
        )
        if not may and "nothing is" not in str(error) and "no mask" not in str(error):
            raise
        return True
    out = capsys.readouterr().out
    if "labels: " in out:
        fates(out)
    with open(place.with_suffix(".data") / "report.csv", newline="") as file:
        said = {row["name"] for row in csv.DictReader(file)}
    judge(kind, stored(place.with_suffix(".data")), known, said)
    return False


KINDS = {"coco": coco, "images": images, "voc": voc, "labels": labels}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cases", [20, pytest.param(500, marks=pytest.mark.slow)])
def test_labels_at_random(cases, kind, pictures, tmp_path, capsys, monkeypatch):
    pytest.importorskip("pycocotools")
    monkeypatch.setattr(cli, "processes", alone)
    refusals = 0
    for seed in range(cases):
        refusals += try_case(kind, seed, pictures, tmp_path / f"{kind}{seed}", capsys)
    assert refusals < 0.9 * cases
