"""A detector of mixed bit-widths that needs no training, pictures for it, and a place where cross-compiled runners are kept."""

import platform

import cv2
import numpy as np
import pytest

from hwmodels.calibrate import random_weights
from nas.candidates import deploy_form
from nas.compiler.lower import lower
from nas.data import Dataset, Sample
from nas.deploy.errors import DeployError
from nas.deploy.runner import runner_for, target_named, target_of
from nas.runtime import write
from searchspaces import SPACES


@pytest.fixture(scope="session")
def detector_file(tmp_path_factory):
    """An artifact of 8-, 4- and 2-bit layers on 96 px, two classes."""
    space = SPACES["yolo"]
    genes = {"resolution": 96, "stage2.precision": "w4a4", "stage3.precision": "w2a2", "neck.precision": "w2a2"}
    graph = deploy_form(space.arch(space.repair(genes).genes), 2)
    path = tmp_path_factory.mktemp("artifact") / "detector.edge"
    path.write_bytes(write(lower(graph, random_weights(graph), classes=["square", "disc"])))
    return path


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Three pictures of noise with a box each."""
    folder, samples = tmp_path_factory.mktemp("pictures"), []
    for number in range(3):
        path = folder / f"{number}.png"
        cv2.imwrite(str(path), np.random.default_rng(number).integers(0, 256, (96, 96, 3), dtype=np.uint8))
        samples.append(Sample(path, 96, 96, np.array([[8, 8, 40, 40]], np.float32), np.array([number % 2]), np.array([False])))
    return Dataset("noise", folder, "yolo", ("square", "disc"), {"val": tuple(samples)})


@pytest.fixture(scope="session")
def runner():
    """runner('aarch64') is a program for that target, kept for later runs; skips where a tool that builds it is missing."""

    def built(name=""):
        target = target_named(name) if name else target_of(platform.machine(), "this machine")
        try:
            return runner_for(target)
        except DeployError as fault:
            if "install" in str(fault):
                pytest.skip(str(fault))
            raise

    return built
