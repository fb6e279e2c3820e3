"""The errors of nas.quant."""


class QuantError(ValueError):
    """A request about bits or activations that cannot be met: names it, what was found and what would work."""


class NothingFits(QuantError):
    """No assignment keeps the limits; says the least that is possible."""
