"""What can be searched: graphs, spaces and the functions that build one from the other.  No torch but in module.py."""

from searchspaces.graph import Builder, Graph, Node, verify
from searchspaces.ops import GraphError
from searchspaces.space import Arch, Choice, Space, SpaceError
from searchspaces.weights import Weights
from searchspaces.yolo import YOLO, YOLO_BLOCKS

SPACES = {space.name: space for space in (YOLO, YOLO_BLOCKS)}

__all__ = [
    "SPACES",
    "YOLO",
    "YOLO_BLOCKS",
    "Arch",
    "Builder",
    "Choice",
    "Graph",
    "GraphError",
    "Node",
    "Space",
    "SpaceError",
    "Weights",
    "verify",
]
