"""What one data set has taught, as the belief with which a search on the next one starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nas.objectives import Objective
from nas.search.features import Features
from nas.search.latent import Latent, level
from nas.search.surrogate import kernel_prior
from predictors import gp
from searchspaces.space import Arch, Space

_ROWS = 220     # measured networks that the kernel is sought on


class Learned:
    """A process fitted to networks of `space` with their cheap columns and their accuracy on another data set; a Belief."""

    def __init__(self, space: Space, archs: Sequence[Arch], columns: Sequence[Mapping[str, float]], objective: Objective,
                 accuracy: Sequence[float]) -> None:
        genes = np.array([space.encode(arch) for arch in archs])
        levels = level(objective, np.asarray(accuracy, dtype=np.float64))
        self._space = space
        self._features = Features(space, genes, columns)
        x, z, y = self._features(genes, columns), np.empty((len(genes), 0)), Latent.fitted(objective, levels).of(levels)
        self._process = gp.process(x, z, y, gp.sought(x, z, y, kernel_prior(x.shape[1]), most=_ROWS))

    def __call__(self, archs: Sequence[Arch], columns: Sequence[Mapping[str, float]]) -> np.ndarray:
        x = self._features(np.array([self._space.encode(arch) for arch in archs]), columns)
        return self._process.mean(x, np.empty((len(x), 0)))
