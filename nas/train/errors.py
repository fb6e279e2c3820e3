"""The one error class of this package."""


class TrainError(ValueError):
    """Training cannot go on; the message names what was found and what would work."""
