"""Artifacts on a device: time them, check them bit for bit, score them, and learn what the device costs."""
