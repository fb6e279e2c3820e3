"""What a measurement on this machine belongs to."""

import platform
import zlib
from pathlib import Path

from nas.runtime.executor import engine, isa


def cpu_name() -> str:
    """The CPU's own name where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def identity() -> dict[str, str]:
    """CPU, instruction sets and a checksum of the engine: times measured under another identity say nothing here."""
    return {"cpu": cpu_name(), "isa": isa(), "engine": f"{zlib.crc32(Path(engine().__file__).read_bytes()):08x}"}
