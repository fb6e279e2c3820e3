"""The networks of `edgenas bench model` by name: detectors of the space `yolo`, and ResNet18."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from searchspaces import YOLO, Graph
from searchspaces.graph import Builder, Ref
from searchspaces.nano import nano
from searchspaces.yolo import EDGE_BITS, bits

CLASSES = tuple(f"class{i}" for i in range(20))
IMAGENET_CLASSES = 1000
RESNET18 = (64, 128, 256, 512)  # channels of the stages, two blocks each (He et al. 2016, arXiv:1512.03385)


def yolov5n(size: int, act: str, precision: str = "w8a8") -> Graph:
    """YOLOv5n with YOLOv8's head."""
    return YOLO.build(nano("c3", size, act, precision), len(CLASSES))


def yolov8n(size: int, act: str, precision: str = "w8a8") -> Graph:
    return YOLO.build(nano("c2f", size, act, precision), len(CLASSES))


def resnet18(size: int, act: str, precision: str) -> Graph:
    """Input (3, size, size), output (1000, 1, 1) before softmax; the stem and the last layer, a 1x1 conv here, hold 8 bits."""
    g = Builder()
    with g.precision(EDGE_BITS, EDGE_BITS):
        x = g.activation(g.batchnorm(g.conv2d(g.input(3, size, size), RESNET18[0], 7, stride=2)), act)
    with g.precision(*bits(precision)):
        x = g.maxpool(x, 3, 2)
        for stage, channels in enumerate(RESNET18):
            for block in range(2):
                x = _basic(g, x, channels, stride=2 if stage and not block else 1, act=act)
    with g.precision(EDGE_BITS, EDGE_BITS):
        return g.graph(g.conv2d(g.add_node("global_avgpool", x), IMAGENET_CLASSES, 1, bias=True))


def _basic(g: Builder, x: Ref, channels: int, *, stride: int, act: str) -> Ref:
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 where the shape changes."""
    y = g.activation(g.batchnorm(g.conv2d(x, channels, 3, stride=stride)), act)
    y = g.batchnorm(g.conv2d(y, channels, 3))
    if stride > 1 or g.channels(x) != channels:
        x = g.batchnorm(g.conv2d(x, channels, 1, stride=stride))
    return g.activation(g.add(x, y), act)


# name -> (build(size, act, precision), side of the input in pixels, activations)
NETWORKS: Mapping[str, tuple[Callable[[int, str, str], Graph], int, tuple[str, ...]]] = MappingProxyType({
    "yolov5n": (yolov5n, 320, ("silu", "relu")),
    "yolov8n": (yolov8n, 320, ("silu", "relu")),
    "resnet18": (resnet18, 224, ("relu",)),
})
