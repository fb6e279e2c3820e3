"""Artifacts on a device: time them, check them bit for bit, score them, and learn what the device costs."""

from nas.deploy.errors import DeployError, Unreachable

__all__ = ["DeployError", "Unreachable"]
