"""Device: a board, a runtime and the precisions it prices, in one TOML file with a source for every number.

Three kinds.  A calibrated device carries `operators`, costs fitted to operators timed one by one in our own runtime.  A fitted device
carries `networks`, laws fitted to the times of whole networks in another runtime.  A datasheet device carries the figures of a
roofline, the fastest that its hardware could be, and `slack`: how many times slower a real kernel is assumed to be at most.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

import msgspec

from hwmodels.errors import DeviceError
from hwmodels.laws import NetworkTable, fault
from hwmodels.operators import Estimate, OperatorTable
from hwmodels.roofline import latency_ms
from hwmodels.workload import OpCost, Workload

FOLDER = Path(__file__).parent / "devices"
LOCAL = "local"  # the name of the device that is this machine, measured at first use
_NUMBERS = ("cores", "clock_ghz", "dram_gb_s", "macs_per_cycle", "ram_kib", "arena_kib", "flash_kib", "slack", "pj_per_mac",
            "pj_per_byte")


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What a network costs here.  Rates are peaks of one core; `cores` are those that the runtime uses.

    macs_per_cycle     per core and precision, multiply-accumulates
    dram_gb_s          1e9 bytes/s of the memory that holds weights and activations
    ram_kib, flash_kib of the board, 0 where no limit is known; arena_kib: the largest single region of RAM, where activations go
    pj_per_mac, pj_per_byte   energy: picojoules per multiply-accumulate of each precision and per byte moved; absent where not measured
    slack              a run takes between 1 and `slack` times the roofline
    sources            where each number is from, by field name
    operators          fitted costs, in place of the roofline
    networks           fitted laws, in place of the roofline
    errors             of the predictions, by cross-validation: mape (%), within_10 and coverage_90 (fractions), networks (measured)
    """

    name: str
    board: str
    runtime: str
    precisions: tuple[str, ...]
    isa: tuple[str, ...] = ()
    cores: int = 1
    clock_ghz: float = 0.0
    dram_gb_s: float = 0.0
    macs_per_cycle: dict[str, float] = {}
    ram_kib: float = 0.0
    arena_kib: float = 0.0
    flash_kib: float = 0.0
    slack: float = 1.0
    pj_per_mac: dict[str, float] = {}
    pj_per_byte: float = 0.0
    sources: dict[str, str] = {}
    operators: OperatorTable | None = None
    errors: dict[str, float] = {}
    networks: NetworkTable | None = None

    @property
    def is_local(self) -> bool:
        return self.name == LOCAL

    @property
    def is_measured(self) -> bool:
        return self.operators is not None or self.networks is not None

    @property
    def prices_energy(self) -> bool:
        return bool(self.pj_per_mac and self.pj_per_byte)

    @property
    def activations(self) -> tuple[str, ...]:
        """The activation functions that a network may have here; () where there is no limit."""
        return () if self.networks is None else self.networks.activations

    def predict(self, workload: Workload) -> Estimate:
        """Latency of one image; raises DeviceError for an operator or a precision that this device cannot price.

        By roofline the mean is the geometric middle between 1 and `slack` times the fastest possible.
        """
        if self.operators is not None:
            return self.operators.predict(workload)
        if self.networks is not None:
            if strange := sorted({op.precision for op in workload.ops if op.macs} - set(self.precisions)):
                raise DeviceError(f"{self.name} prices {', '.join(self.precisions)}, and the network has {strange[0]}")
            return self.networks.predict(workload)
        fastest = sum(latency_ms(op, self) for op in workload.ops)
        return Estimate(fastest * self.slack**0.5, fastest, fastest * self.slack)

    def price(self, op: OpCost) -> float:
        """Expected milliseconds of one operator; raises DeviceError where only whole networks were measured."""
        if self.networks is not None:
            raise DeviceError(f"{self.name} was fitted to whole networks: it has no price for the operator '{op.name}' alone")
        return self.operators.price(op) if self.operators is not None else latency_ms(op, self) * self.slack**0.5

    def facts(self) -> dict[str, Any]:
        """What a person wants to know of it: fields that are set, the fitted laws as what they price and build on."""
        found = {key: value for key, value in msgspec.to_builtins(self).items() if value is not None}
        if self.networks is not None:
            found["networks"] = {"kinds": list(self.networks.kinds), "relatives": list(self.networks.relatives)}
        return found

    def to_toml(self) -> str:
        return _toml(msgspec.to_builtins(self))

    def save(self, path: str | Path) -> None:
        Path(path).write_text(self.to_toml(), encoding="utf-8")

    @staticmethod
    def load(path: str | Path) -> Device:
        """Reads and checks a device file; raises DeviceError naming the file and what is wrong in it."""
        try:
            device = msgspec.convert(tomllib.loads(Path(path).read_text(encoding="utf-8")), Device)
        except OSError as fault:
            raise DeviceError(f"device file {path}: {fault.strerror}") from None
        except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as fault:
            raise DeviceError(f"device file {path}: {fault}") from None
        if wrong := _fault(device):
            raise DeviceError(f"device file {path}: {wrong}")
        return device


def _fault(device: Device) -> str:
    """What is wrong with a device, '' where nothing is."""
    given = {field: getattr(device, field) for field in _NUMBERS if getattr(device, field) not in ({}, _DEFAULTS[field])}
    for field, value in given.items():
        for number in value.values() if isinstance(value, Mapping) else (value,):
            if not (isfinite(number) and number > 0):
                return f"{field}={number} is not a positive number"
        if field not in device.sources:
            return f"{field} has no source: add sources.{field}"
    if not device.precisions:
        return "precisions is empty: name at least one, such as 'w8a8' or 'fp32'"
    if device.operators is not None:
        return "" if device.operators.error_factor >= 1 else f"operators.error_factor={device.operators.error_factor} is below 1"
    if device.networks is not None:
        return fault(device.networks)
    if device.slack < 1:
        return f"slack={device.slack} is below 1: a run cannot be faster than its roofline"
    if lacking := [field for field in ("clock_ghz", "dram_gb_s", "macs_per_cycle") if field not in given]:
        return f"it has neither fitted operators nor {lacking[0]}, so it can price nothing"
    if unpriced := [precision for precision in device.precisions if precision not in device.macs_per_cycle]:
        return f"precision {unpriced[0]} has no rate; rates: {', '.join(device.macs_per_cycle)}"
    return ""


_DEFAULTS: Mapping[str, Any] = {field.name: field.default for field in msgspec.structs.fields(Device)}


@cache
def devices(folder: Path = FOLDER) -> dict[str, Device]:
    """The devices of a folder, by default those that ship with the toolkit, by name; raises DeviceError where a file is broken."""
    found = [Device.load(path) for path in sorted(folder.glob("*.toml"))]
    return {device.name: device for device in found}


def own_folder() -> Path:
    """Where devices that a user adds are kept: EDGENAS_DEVICES, or edgenas/devices in the user's configuration (XDG)."""
    if folder := os.environ.get("EDGENAS_DEVICES"):
        return Path(folder)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "edgenas" / "devices"


def known() -> dict[str, Device]:
    """The devices that ship with the toolkit and those of the user."""
    folder = own_folder()
    return {**devices(), **(devices(folder) if folder.is_dir() else {})}


def add(path: str | Path, replace: bool = False) -> Path:
    """Check a device file and keep it among the user's devices, under its device's name; the path written.

    Raises DeviceError for a broken file, a name that is taken (unless `replace`; those that ship are never replaced), and a device
    that builds on one that is not known.
    """
    device = Device.load(path)
    target = own_folder() / f"{device.name}.toml"
    if not device.name.replace("_", "").replace("-", "").isalnum() or not device.name.isascii() or device.name == LOCAL:
        raise DeviceError(f"device file {path}: the name '{device.name}' cannot be used: letters, digits, - and _, and not '{LOCAL}'")
    if device.name in devices():
        raise DeviceError(f"device file {path}: '{device.name}' is a device that ships with the toolkit; give yours another name")
    if target.exists() and not replace:
        raise DeviceError(f"{target} exists already; replace it (--replace), or give the device another name")
    for relative in device.networks.relatives if device.networks else ():
        load(relative)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        device.save(target)
    except OSError as fault:
        raise DeviceError(f"{target} cannot be written: {fault.strerror}") from None
    devices.cache_clear()
    return target


def load(name_or_path: str | Path) -> Device:
    """A device by name, or from a file; raises DeviceError listing the known ones."""
    path = Path(name_or_path)
    if path.suffix == ".toml":
        return Device.load(path)
    found = known()
    if str(name_or_path) not in found:
        raise DeviceError(f"no device '{name_or_path}'; devices: {', '.join(found)}, or the path of a device file (.toml)")
    return found[str(name_or_path)]


def _toml(data: Mapping[str, Any], path: str = "", array: bool = False) -> str:
    """TOML of nested mappings of strings, numbers and lists; tables come after the plain values of their parent."""
    tables = {k: v for k, v in data.items() if isinstance(v, Mapping) or _holds_tables(v)}
    plain = [f"{_key(k)} = {_value(v)}" for k, v in data.items() if k not in tables]
    head = [f"[[{path}]]" if array else f"[{path}]"] if path and (plain or array) else []
    text = "\n".join([*head, *plain, ""])
    for key, value in tables.items():
        inner = f"{path}.{_key(key)}" if path else _key(key)
        text += "".join(f"\n{_toml(v, inner, array=True)}" for v in value) if _holds_tables(value) else f"\n{_toml(value, inner)}"
    return text


def _holds_tables(value: Any) -> bool:
    return isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value)


def _key(name: str) -> str:
    return name if name.replace("_", "").isalnum() and name.isascii() else _value(name)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        rows = any(isinstance(item, list | tuple) for item in value)  # a line each
        return "[\n" + ",\n".join(map(_value, value)) + "\n]" if rows else f"[{', '.join(map(_value, value))}]"
    return msgspec.json.encode(value).decode()  # JSON strings and numbers are TOML's
