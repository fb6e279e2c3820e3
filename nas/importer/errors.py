"""The one error class of this package."""


class ImporterError(ValueError):
    """A module or file that cannot become a Graph: names the operator and its module path, what was found and what would work."""
