"""The one error of nas.quant."""


class QuantError(ValueError):
    """A request about bits that cannot be met: names it, what was found and what would work."""
