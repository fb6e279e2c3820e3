"""The error class of this package; what could not be reached is told apart, since it may work when it is tried again."""


class DeployError(ValueError):
    """A device or a tool that cannot be used: names it, what was found and what would work."""


class Unreachable(DeployError):
    """A connection that could not be made, or was lost; nothing is left half-written, so the command can be run again."""
