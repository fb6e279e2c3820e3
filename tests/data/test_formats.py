"""Reading VOC, YOLO and COCO: the real data sets by their counts, broken files by file and line."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from nas.data import DataError, load, read_image

REAL = Path(__file__).resolve().parents[2] / "../shared/data"


def real(name: str) -> Path:
    if not (REAL / name).is_dir():
        pytest.skip(f"no {name} in ../shared/data")
    return REAL / name


def counts(dataset):
    return {split: (len(samples), sum(len(s.labels) for s in samples)) for split, samples in dataset.splits.items()}


def write_image(file: Path, width: int = 40, height: int = 30, seed: int = 0) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    file.write_bytes(cv2.imencode(file.suffix, pixels)[1].tobytes())
    return file


def voc_object(name="cat", box=(1, 2, 11, 12), difficult=0):
    corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult>\n<bndbox>{corners}</bndbox></object>\n"


def voc(root: Path, objects: dict[str, str], size=(40, 30)) -> Path:
    (root / "Annotations").mkdir()
    for seed, (stem, text) in enumerate(objects.items()):
        write_image(root / "JPEGImages" / f"{stem}.png", seed=seed)
        stated = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>\n"
        (root / "Annotations" / f"{stem}.xml").write_text(f"<annotation>\n{stated}{text}</annotation>\n")
    return root


def yolo(root: Path, labels: dict[str, str], settings="train: images\nnc: 2\nnames: [cat, dog]\n") -> Path:
    (root / "labels").mkdir(parents=True)
    for seed, (stem, text) in enumerate(labels.items()):
        write_image(root / "images" / f"{stem}.png", seed=seed)
        (root / "labels" / f"{stem}.txt").write_text(text)
    (root / "data.yaml").write_text(settings)
    return root


def coco(root: Path, **changes) -> Path:
    for i in (1, 2):
        write_image(root / "images" / f"{i}.png", seed=i)
    content = {
        "images": [{"id": 10 * i, "file_name": f"{i}.png", "width": 40, "height": 30} for i in (1, 2)],
        "annotations": [{"id": i, "image_id": 10 * i, "category_id": 7, "bbox": [1, 2, 10.5, 8], "iscrowd": 0} for i in (1, 2)],
        "categories": [{"id": 90, "name": "dog"}, {"id": 7, "name": "cat"}],
    }
    file = root / "annotations" / "instances.json"
    file.parent.mkdir()
    file.write_text(json.dumps(content | changes, indent=1))
    return file


def test_bccd_has_the_counts_of_its_readme_and_two_zero_size_boxes():
    dataset = load(real("bccd"))
    assert counts(dataset) == {"train": (205, 2804), "val": (87, 1137), "test": (72, 945)}
    assert dataset.classes == ("Platelets", "RBC", "WBC")
    assert sorted((Path(p.file).name, p.line) for p in dataset.problems) == [("BloodImage_00338.xml", 163), ("BloodImage_00343.xml", 55)]
    assert all("no area" in p.message for p in dataset.problems)


def test_playing_cards_reads_both_spellings_of_jpg_and_takes_test_as_val():
    dataset = load(real("playing_cards"))
    assert counts(dataset) == {"train": (148, 262), "val": (67, 143)}
    assert dataset.classes == ("nine", "ten", "jack", "queen", "king", "ace")
    assert {s.image.suffix for s in dataset.train + dataset.val} == {".JPG", ".jpg"}
    assert not dataset.problems


def test_coco_permissive_has_crowd_a_grayscale_and_an_empty_image_and_gets_the_same_split_each_time():
    dataset, again = load(real("coco_permissive")), load(real("coco_permissive") / "annotations" / "instances.json")
    samples = dataset.train + dataset.val
    assert (len(samples), sum(len(s.labels) for s in samples), sum(int(s.crowd.sum()) for s in samples)) == (33, 246, 3)
    assert len(dataset.classes) == 80 and len({int(c) for s in samples for c in s.labels}) == 44
    assert sum(1 for s in samples if not len(s.labels)) == 1
    assert (len(dataset.train), len(dataset.val)) == (26, 7)
    assert [s.image.name for s in dataset.val] == [s.image.name for s in again.val]
    assert any("held out" in p.message for p in dataset.problems)
    gray = [s for s in samples if Image.open(s.image).mode == "L"]
    assert len(gray) == 1
    image = read_image(gray[0])
    assert image.shape == (gray[0].height, gray[0].width, 3) and np.ptp(image, axis=2).max() == 0


def test_voc_clips_and_skips_boxes_and_marks_difficult_ones_as_crowd(tmp_path):
    boxes = voc_object(box=(-5, 2, 10, 12)) + voc_object(box=(50, 2, 60, 12)) + voc_object("dog", (3.5, 4, 9, 20), difficult=1)
    dataset = load(voc(tmp_path, {"a": boxes, "b": voc_object(), "c": voc_object()}))
    sample = next(s for s in dataset.train + dataset.val if s.image.stem == "a")
    np.testing.assert_array_equal(sample.boxes_xyxy, [[0, 2, 10, 12], [3.5, 4, 9, 20]])
    assert sample.crowd.tolist() == [False, True]
    text = "\n".join(map(str, dataset.problems))
    assert "a.xml:4: box (-5, 2, 10, 12) reaches outside the 40x30 image; clipped" in text
    assert "a.xml:6: box (50, 2, 60, 12) is outside the 40x30 image; skipped" in text
    assert "difficult" in text


def test_voc_reports_a_stated_size_that_is_not_the_images(tmp_path):
    dataset = load(voc(tmp_path, {"a": voc_object(), "b": voc_object()}, size=(64, 64)))
    assert sum("states 64x64" in p.message for p in dataset.problems) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<object>\n<name>cat</name>\n<bndbox><xmin>1</bndbox>", r"a\.xml:5: malformed XML: mismatched tag"),
        ("<object>\n<name>cat</name>\n</object>", r"a\.xml:3: <object> 'cat' without a <bndbox>"),
        (voc_object(box=(1, "x", 5, 6)), r"a\.xml:4: <ymin> is 'x'"),
        (voc_object(box=(1, "nan", 5, 6)), r"a\.xml:4: <ymin> is 'nan'"),
        (voc_object(name=" "), r"a\.xml:3: <object> without a <name>"),
    ],
)
def test_a_broken_annotation_names_file_and_line(tmp_path, text, expected):
    root = voc(tmp_path, {"a": text, "b": voc_object(), "c": voc_object()})
    with pytest.raises(DataError, match=expected):
        load(root)
    lenient = load(root, strict=False)
    assert len(lenient.train) + len(lenient.val) == 2
    assert [p.severity for p in lenient.problems] == ["error", "note"]               # the note: no validation split


def test_voc_names_the_line_of_a_split_file_that_lists_a_missing_annotation(tmp_path):
    root = voc(tmp_path, {"a": voc_object(), "b": voc_object()})
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\n\nzebra\n")
    with pytest.raises(DataError, match=r"train\.txt:3: 'zebra' has no Annotations"):
        load(root)


def test_xml_entities_are_refused(tmp_path):
    root = voc(tmp_path, {"a": voc_object(), "b": voc_object()})
    (root / "Annotations" / "a.xml").write_text('<!DOCTYPE a [<!ENTITY x "y">]>\n<annotation>&x;</annotation>')
    with pytest.raises(DataError, match=r"a\.xml:1: declares an XML entity"):
        load(root)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("0 0.5 0.5 0.2", "4 numbers, expected 5"),
        ("0 0.5 0.5 0.2 x", "not a line of numbers"),
        ("2 0.5 0.5 0.2 0.2", r"class 2 is not one of the 2 classes 0\.\.1"),
        ("0.5 0.5 0.5 0.2 0.2", "class 0.5 is not one"),
        ("0 nan 0.5 0.2 0.2", "not finite"),
        ("0 20 15 8 6", "not normalized"),
    ],
)
def test_a_bad_label_line_names_file_and_line(tmp_path, line, expected):
    with pytest.raises(DataError, match=rf"a\.txt:3: .*{expected}"):
        load(yolo(tmp_path, {"a": f"0 0.5 0.5 0.2 0.2\n\n{line}\n", "b": "1 0.5 0.5 0.1 0.1"}))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("train: images\nnames: [cat, dog\n", r"data\.yaml:3: not valid YAML"),
        ("train: images\nnc: 3\nnames: [cat, dog]\n", r"data\.yaml:2: nc is 3, but 2 names"),
        ("train: images\nnames: {0: cat, 2: dog}\n", r"data\.yaml:2: names must number the classes"),
        ("train: images\nnames: [cat, cat]\n", r"data\.yaml:2: class 'cat' is named twice"),
        ("train: pictures\nnames: [cat, dog]\n", r"data\.yaml:1: train: 'pictures' is neither"),
        ("names: [cat, dog]\n", "has no 'train'"),
        ("- 1\n", "holds no settings"),
    ],
)
def test_a_bad_data_yaml_names_file_and_line(tmp_path, settings, expected):
    with pytest.raises(DataError, match=expected):
        load(yolo(tmp_path, {"a": "0 0.5 0.5 0.2 0.2"}, settings) / "data.yaml")


@pytest.mark.parametrize(
    "settings",
    [
        "path: .\ntrain: images\nval: images\nnames: {0: cat, 1: dog}\n",
        "path: /nowhere/else\ntrain: images\nval: ../images\nnames:\n  1: dog\n  0: cat\n",
        "train: [images]\nval: val.txt\nnames: [cat, dog]\n",
    ],
    ids=["names as a dict", "paths of another machine", "list file"],
)
def test_yolo_settings_are_read_in_their_usual_spellings(tmp_path, settings):
    root = yolo(tmp_path, {"a": "0 0.5 0.5 0.5 0.4\n1 0.1 0.1 0.1 0.9 0.6 0.5", "b": ""}, settings)
    (root / "val.txt").write_text("images/b.png\nimages/a.png\n")
    dataset = load(root)
    assert dataset.classes == ("cat", "dog") and len(dataset.train) == len(dataset.val) == 2
    np.testing.assert_allclose(dataset.train[0].boxes_xyxy, [[10, 9, 30, 21], [4, 3, 24, 27]], rtol=1e-6)
    assert dataset.train[1].boxes_xyxy.shape == (0, 4)


def test_labels_are_also_found_beside_the_images(tmp_path):
    root = yolo(tmp_path, {"a": "0 0.5 0.5 0.2 0.2", "b": "0 0.5 0.5 0.2 0.2"})
    for file in (root / "labels").iterdir():
        file.rename(root / "images" / file.name)
    assert sum(n for _, n in counts(load(root)).values()) == 2


def test_coco_maps_category_ids_in_their_order_and_reads_float_boxes(tmp_path):
    dataset = load(coco(tmp_path))
    assert dataset.classes == ("cat", "dog")
    np.testing.assert_allclose(dataset.train[0].boxes_xyxy, [[1, 2, 11.5, 10]])
    assert any("1 of 2 classes have no box in train and cannot be learned: dog" in p.message for p in dataset.problems)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"annotations": [{"id": 5, "image_id": 99, "category_id": 7, "bbox": [0, 0, 1, 1]}]}, "annotation 5: image_id 99 is not"),
        ({"annotations": [{"id": 5, "image_id": 10, "category_id": 8, "bbox": [0, 0, 1, 1]}]}, "annotation 5: category_id 8 is not"),
        ({"annotations": [{"id": 5, "image_id": 10, "category_id": 7, "bbox": [0, 0, 1]}]}, r"annotation 5: bbox is \[0, 0, 1\]"),
        ({"images": [{"id": 1}]}, r"images\[0\] needs id and file_name"),
        ({"categories": {}}, "has no list 'categories'"),
    ],
)
def test_a_broken_coco_file_says_what_is_wrong(tmp_path, changes, expected):
    with pytest.raises(DataError, match=rf"instances\.json: .*{expected}"):
        load(coco(tmp_path, **changes))


def test_cut_coco_json_names_the_line_and_a_missing_image_its_name(tmp_path):
    file = coco(tmp_path)
    (tmp_path / "images" / "2.png").unlink()
    with pytest.raises(DataError, match=r"instances\.json: image 20: no file '2\.png' in .*images"):
        load(tmp_path)
    file.write_text(file.read_text()[:-40])
    with pytest.raises(DataError, match=r"instances\.json:\d\d: not valid JSON"):
        load(file)


def test_coco_files_named_after_splits_are_read_together(tmp_path):
    file = coco(tmp_path)
    for split in ("train", "val"):
        (file.parent / f"instances_{split}2017.json").write_text(file.read_text())
    assert counts(load(tmp_path)) == {"train": (2, 2), "val": (2, 2)}


@pytest.mark.parametrize(
    ("content", "expected"), [(None, "no such folder"), ("folder", "no data set found in it .it holds nothing"), ("text", "not a data set")]
)
def test_what_is_no_data_set_says_what_was_expected(tmp_path, content, expected):
    place = tmp_path / "place"
    if content == "folder":
        place.mkdir()
    elif content == "text":
        place.write_text("hello")
    with pytest.raises(DataError, match=rf"{expected}.*data\.yaml"):
        load(place)


@pytest.mark.parametrize("labels", [{}, {"a": "", "b": ""}], ids=["no image", "no box"])
def test_an_empty_data_set_is_an_error(tmp_path, labels):
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match="no training images|has a box"):
        load(yolo(tmp_path, labels))


def test_a_file_that_is_no_image_is_named(tmp_path):
    root = yolo(tmp_path, {"a": "0 0.5 0.5 0.2 0.2", "b": "0 0.5 0.5 0.2 0.2", "c": "0 0.5 0.5 0.2 0.2"})
    (root / "images" / "b.png").write_text("not a picture")
    with pytest.raises(DataError, match=r"b\.png: not an image"):
        load(root)
    with pytest.raises(DataError, match=r"b\.png: not an image"):
        read_image(root / "images" / "b.png")
    cut = root / "images" / "c.png"
    cut.write_bytes(cut.read_bytes()[:300])
    with pytest.raises(DataError, match=r"c\.png: not an image that can be read"):
        read_image(cut)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone_in_pixels_and_size(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / "a.jpg"
    stored = Image.fromarray(np.kron(np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8), np.ones((8, 8, 1), np.uint8)))
    stored.save(file, exif=exif, quality=95, subsampling=0)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(file)))
    np.testing.assert_allclose(read_image(file).astype(int), expected, atol=4)
    if orientation > 1:
        stored.save(tmp_path / "a.tiff", exif=exif)
        with pytest.raises(DataError, match=r"a\.tiff: a TIFF stored with orientation"):
            read_image(tmp_path / "a.tiff")
