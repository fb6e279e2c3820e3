"""The one error class of this package."""


class ProxyError(ValueError):
    """A proxy, a probe or a score that cannot be used: names it, what was found and what would work."""
