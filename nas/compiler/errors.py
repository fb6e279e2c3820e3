"""The one error class of this package."""


class CompilerError(ValueError):
    """A graph or weights that cannot be compiled: names the node, what was found and what would work."""
