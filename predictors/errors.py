"""The one error of this package."""


class PredictorError(ValueError):
    """What a predictor cannot learn from or answer: names it and says what would work."""
