import numpy as np
import pytest

from hwmodels import DeviceError, devices, workload
from hwmodels.limits import priced
from searchspaces import YOLO
from searchspaces.quantizers import quantized
from searchspaces.rewrite import deployed
from searchspaces.yolo import with_precisions

FITTED = {name: device for name, device in devices().items() if device.networks}


@pytest.mark.parametrize("device", FITTED.values(), ids=FITTED)
def test_every_network_of_a_limited_space_is_priced(device):
    space, rng = priced(YOLO, device), np.random.default_rng(1)
    for _ in range(30):
        load = workload(deployed(quantized(space.build(space.sample(rng), 7))))
        estimate = device.predict(load)
        assert 0 < estimate.low_ms < estimate.mean_ms < estimate.high_ms < 1e5


def test_a_device_without_whole_networks_limits_precisions_alone():
    device = devices()["raspi4-edgenas"]
    assert priced(YOLO, device).choices == with_precisions(YOLO, device.precisions).choices


def test_an_activation_that_was_never_measured_leaves_the_space_and_its_networks_are_refused():
    device = devices()["raspi4-tflite-int8"]
    acts = {option for choice in priced(YOLO, device).choices if choice.name.endswith(".act") for option in choice.options}
    assert acts == {"relu", "silu"}
    space = with_precisions(YOLO, ["w8a8"]).limited({"head.act": ["hardswish"]})
    with pytest.raises(DeviceError, match="'hardswish' was in no network that was measured"):
        device.predict(workload(deployed(quantized(space.build(space.sample(np.random.default_rng(0)), 7)))))
    with pytest.raises(DeviceError, match="gene head.act has none"):
        priced(space, device)


def test_an_option_whose_operators_were_never_measured_leaves_the_space():
    import msgspec

    device = devices()["raspi4-ort-fp32"]
    table = msgspec.structs.replace(device.networks, kinds=tuple(k for k in device.networks.kinds if k != "slice"))
    space = priced(YOLO, msgspec.structs.replace(device, networks=table))
    left = {choice.name: choice.options for choice in space.choices}
    assert "c2f" not in left["backbone.block"] and "c3" in left["backbone.block"]
