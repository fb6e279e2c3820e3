"""The one error of this package."""


class DeviceError(ValueError):
    """A device file that cannot be read, or work that a device cannot price: names it and says what would work."""
