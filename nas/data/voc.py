"""PASCAL VOC folders: JPEGImages/, Annotations/*.xml and, where given, ImageSets/Main/{train,val,test}.txt.

Coordinates are taken as pixels as they stand: the 1-based inclusive corners of the original VOC would be half a pixel off, while every
annotation tool since then writes this form 0-based. `difficult` objects are marked as crowd, since VOC evaluation ignores them too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from nas.data.core import SPLITS, DataError, Dataset, Problem, RawBox, Sample, image_size, is_image_name, make_sample, natural_key


@dataclass
class _Element:
    """An XML element with the line it starts on, which xml.etree does not keep."""

    tag: str
    line: int
    text: str = ""
    children: list[_Element] = field(default_factory=list)

    def find(self, tag: str) -> _Element | None:
        return next((child for child in self.children if child.tag == tag), None)


@dataclass(frozen=True)
class _Object:
    """One annotated object before class names have numbers."""

    name: str
    xyxy: tuple[float, float, float, float]
    line: int
    difficult: bool


@dataclass(frozen=True)
class _Annotation:
    file: Path
    image: Path
    size: tuple[int, int]
    objects: tuple[_Object, ...]


def is_voc(root: Path) -> bool:
    return (root / "Annotations").is_dir() and any((root / "Annotations").glob("*.xml"))


def load_voc(root: Path) -> Dataset:
    """Read a VOC folder; classes are the annotated names in alphabetical order, since the format has no list of them."""
    problems: list[Problem] = []
    images = _images_by_stem(root / "JPEGImages")
    parsed: dict[str, _Annotation | None] = {}
    splits: dict[str, list[str]] = {}
    for split, (file, names) in _image_sets(root).items():
        splits[split] = []
        for line, stem in names:
            xml = root / "Annotations" / f"{stem}.xml"
            if not xml.is_file():
                problems.append(Problem(str(file), line, f"'{stem}' has no {xml.relative_to(root)}", "error"))
                continue
            if stem not in parsed:
                parsed[stem] = _read_or_report(xml, stem, images, problems)
            splits[split].append(stem)

    classes = tuple(sorted({obj.name for annotation in parsed.values() if annotation for obj in annotation.objects}))
    index = {name: i for i, name in enumerate(classes)}
    samples = {stem: _sample(annotation, index, problems) for stem, annotation in parsed.items() if annotation}
    found = {split: tuple(samples[stem] for stem in stems if stem in samples) for split, stems in splits.items()}
    return Dataset(root.name, root, "voc", classes, found, tuple(problems))


def parse_annotation(file: Path) -> tuple[tuple[int, int] | None, str | None, tuple[_Object, ...]]:
    """(annotated size or None, file name or None, objects) of one XML file. Raises DataError naming file and line."""
    root = _parse_xml(file)
    if root.tag != "annotation":
        raise DataError(f"{file}:{root.line}: root element is <{root.tag}>, expected <annotation>")
    size = root.find("size")
    stated = None
    if size is not None:
        stated = (int(_number(file, size, "width")), int(_number(file, size, "height")))
    filename = root.find("filename")
    objects = tuple(_object(file, element) for element in root.children if element.tag == "object")
    return stated, (filename.text.strip() or None) if filename is not None else None, objects


def _image_sets(root: Path) -> dict[str, tuple[Path, list[tuple[int | None, str]]]]:
    """split -> (file that lists it, [(line, stem), ...]); without ImageSets everything annotated is "train"."""
    folder = root / "ImageSets" / "Main"
    found: dict[str, tuple[Path, list[tuple[int | None, str]]]] = {}
    for split in SPLITS:
        file = folder / f"{split}.txt"
        if file.is_file():
            lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
            found[split] = (file, [(number, line.split()[0]) for number, line in enumerate(lines, 1) if line.strip()])
    if "train" not in found and (folder / "trainval.txt").is_file():
        raise DataError(f"{folder}: has trainval.txt, but no train.txt; add train.txt and val.txt, or remove ImageSets for a random split")
    if not found:
        files = sorted((root / "Annotations").glob("*.xml"), key=natural_key)
        found["train"] = (root / "Annotations", [(None, file.stem) for file in files])
    return found


def _images_by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; a VOC data set keeps its images in JPEGImages")
    return {file.stem: file for file in sorted(folder.iterdir()) if is_image_name(file)}


def _read_or_report(xml: Path, stem: str, images: dict[str, Path], problems: list[Problem]) -> _Annotation | None:
    try:
        stated, filename, objects = parse_annotation(xml)
        image = images.get(stem) or (images.get(Path(filename).stem) if filename else None)
        if image is None:
            raise DataError(f"{xml}: no image '{stem}' in JPEGImages")
        size = image_size(image)
    except DataError as error:
        problems.append(Problem.of(error, xml))
        return None
    if stated is not None and stated != size and all(stated):
        problems.append(Problem(str(xml), None, f"states {stated[0]}x{stated[1]}, but {image.name} is {size[0]}x{size[1]}"))
    return _Annotation(xml, image, size, objects)


def _sample(annotation: _Annotation, index: dict[str, int], problems: list[Problem]) -> Sample:
    boxes = [RawBox(obj.xyxy, index[obj.name], obj.line, obj.difficult) for obj in annotation.objects]
    return make_sample(annotation.image, annotation.size, boxes, annotation.file, problems)


def _object(file: Path, element: _Element) -> _Object:
    name, box, difficult = element.find("name"), element.find("bndbox"), element.find("difficult")
    if name is None or not name.text.strip():
        raise DataError(f"{file}:{element.line}: <object> without a <name>")
    if box is None:
        raise DataError(f"{file}:{element.line}: <object> '{name.text.strip()}' without a <bndbox>")
    x1, y1, x2, y2 = (_number(file, box, key) for key in ("xmin", "ymin", "xmax", "ymax"))
    return _Object(name.text.strip(), (x1, y1, x2, y2), box.line, difficult is not None and difficult.text.strip() == "1")


def _number(file: Path, parent: _Element, tag: str) -> float:
    element = parent.find(tag)
    if element is None:
        raise DataError(f"{file}:{parent.line}: <{parent.tag}> without <{tag}>")
    try:
        value = float(element.text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{file}:{element.line}: <{tag}> is '{element.text.strip()}', expected a number")
    return value


def _parse_xml(file: Path) -> _Element:
    """The root element. Entity declarations are refused: no annotation needs them, and they can blow up in memory."""
    parser = expat.ParserCreate()
    top = _Element("", 0)
    stack = [top]

    def start(tag: str, attributes: dict[str, str]) -> None:
        element = _Element(tag, parser.CurrentLineNumber)
        stack[-1].children.append(element)
        stack.append(element)

    def end(tag: str) -> None:
        stack.pop()

    def text(data: str) -> None:
        stack[-1].text += data

    def refuse(*declaration: object) -> None:
        raise DataError(f"{file}:{parser.CurrentLineNumber}: declares an XML entity, which an annotation must not")

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(file.read_bytes(), True)
    except expat.ExpatError as error:
        raise DataError(f"{file}:{error.lineno}: malformed XML: {expat.errors.messages[error.code]}") from None
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}") from None
    return top.children[0]
