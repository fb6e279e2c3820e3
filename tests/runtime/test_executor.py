"""The executor against the numpy reference: bit for bit for codes, to rounding for floats, for every kernel variant."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.runtime import ArtifactError, Executor, Metadata, decode, executor, nms, reference, write
from nas.runtime.plan import ACTIVATIONS
from nas.runtime.sample import Sampler

PRECISIONS = ((8, 8), (4, 8), (4, 4), (3, 4), (2, 8), (2, 4), (2, 2), (1, 2), (1, 1))
EPILOGUES = ("linear", "table", "threshold", "float")
VARIANTS = sorted({v for op in ("conv2d", "conv2d_f32", "add") for v in executor.variants(op)})
SIZES = st.integers(1, 19)
CHANNELS = st.sampled_from((1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 31, 33, 64))


def check(sampler, variant, highest=False):
    """Each instruction's output is what the reference makes of the executor's own inputs to it; returns the executor.

    Integer instructions give the same bits; float sums differ by at most 1e-5 of the largest value.
    """
    plan = sampler.plan(range(len(sampler.tensors)))
    engine = Executor(write(plan), variant)
    inputs = sampler.values(highest)
    found = engine.run(inputs)
    for i in plan.instructions:
        wanted, y = reference.step(plan, i, [found[t] for t in i.inputs]), found[i.outputs[0]]
        assert y.dtype == wanted.dtype and y.shape == wanted.shape
        if plan.tensors[i.inputs[0]].dtype == "u8" or i.op in ("quantize", "slice", "concat", "maxpool", "upsample", "add", "mul"):
            np.testing.assert_array_equal(y, wanted, err_msg=f"{i.name} by {engine.profile(inputs)}")
        else:
            np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5 * max(1.0, float(np.abs(wanted).max())), err_msg=i.name)
    return engine


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_conv2d_variant_equals_the_reference_bit_for_bit(variant, data):
    wbits, abits = data.draw(st.sampled_from(PRECISIONS))
    kernel, stride = data.draw(st.sampled_from((1, 2, 3, 5))), data.draw(st.sampled_from((1, 2)))
    padding = data.draw(st.integers(0, kernel - 1))
    c, channels = data.draw(CHANNELS), data.draw(CHANNELS)
    groups = data.draw(st.sampled_from([g for g in (1, 2, 4, c) if c % g == 0 and channels % g == 0]))
    low = max(1, kernel - 2 * padding)
    h, w = (data.draw(st.integers(low, low + 18)) for _ in range(2))
    bits = data.draw(st.sampled_from((1, 2, 4, 8)))
    epilogue = data.draw(st.sampled_from(EPILOGUES if bits <= 4 else ("linear", "table", "float")))
    s = Sampler(np.random.default_rng(data.draw(st.integers(0, 2**32))))
    x = s.input((c, h, w), abits, data.draw(st.integers(0, 2**abits - 1)))
    s.conv2d(x, channels, kernel, stride, padding, groups, wbits, bits, epilogue)
    check(s, variant, data.draw(st.booleans()))


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_few_pixels_with_many_channels_equal_the_reference_bit_for_bit(variant, data):
    wbits, abits = data.draw(st.sampled_from(((8, 8), (4, 4), (2, 2), (1, 2), (1, 1))))
    kernel, stride = data.draw(st.sampled_from((1, 3))), data.draw(st.sampled_from((1, 2)))
    h, w = data.draw(st.integers(1, 9)), data.draw(st.sampled_from((1, 5, 7, 8, 13, 14)))
    channels, epilogue = data.draw(st.sampled_from((64, 65, 96, 131))), data.draw(st.sampled_from(("linear", "threshold", "threshold")))
    s = Sampler(np.random.default_rng(data.draw(st.integers(0, 2**32))))
    x = s.input((data.draw(CHANNELS), h, w), abits, data.draw(st.integers(0, 2**abits - 1)))
    s.conv2d(x, channels, kernel, stride, kernel // 2, 1, wbits, 2, epilogue)
    check(s, variant, data.draw(st.booleans()))


@pytest.mark.parametrize("variant", [v for v in VARIANTS if "lookup" in v or "w2a2" in v])
@pytest.mark.parametrize(("wbits", "abits", "largest"), [(2, 2, 6), (1, 2, 3), (1, 1, 1)])
@pytest.mark.parametrize(("channels", "w"), [(1, 50), (66, 2)])
def test_lookup_sums_at_the_limit_of_16_bits_equal_the_reference(variant, wbits, abits, largest, channels, w):
    for c in (65534 // largest, 65535 // largest):                    # the last that fits, then one more
        s = Sampler(np.random.default_rng(c))
        s.conv2d(s.input((c, 1, w), abits), channels, 1, 1, 0, 1, wbits, 2, "threshold")
        check(s, variant, highest=True)


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_integer_operator_equals_the_reference_bit_for_bit(variant, data):
    """One plan with all of them, so that each reads what another kernel wrote, padding lanes included."""
    wbits, bits = data.draw(st.sampled_from(PRECISIONS))
    c, h, w = data.draw(CHANNELS), data.draw(SIZES), data.draw(SIZES)
    s = Sampler(np.random.default_rng(data.draw(st.integers(0, 2**32))))
    x = s.input((c, h, w), bits, data.draw(st.integers(0, 2**bits - 1)))

    def kind(*kinds):
        return data.draw(st.sampled_from(kinds if bits <= 4 else [k for k in kinds if k != "threshold"]))

    a = s.conv2d(x, c, 3, wbits=wbits, bits=bits, epilogue=kind("linear", "table", "threshold"))
    added = s.add(a, x, bits, kind("linear", "table", "threshold"))
    parts = s.concat(added, s.slice(added, data.draw(st.integers(0, c - 1)), c), s.maxpool(added, data.draw(st.sampled_from((3, 5)))))
    mixed = s.conv2d(parts, 6, 1, wbits=wbits, bits=bits, epilogue=kind("linear", "table"))
    gate = s.global_avgpool(mixed, bits, kind("linear", "table", "threshold"))
    gated = s.mul(s.requantize(mixed, bits), gate, bits, kind("linear", "table", "threshold"))
    tail = s.add(gated, gate, bits, kind("linear", "table"))
    up = s.upsample(s.requantize(tail, bits, kind("linear", "table", "threshold")), data.draw(st.integers(1, 3)))
    s.conv_transpose2d(s.maxpool(up, 2, 2, 0) if min(s.tensors[up].shape[1:]) > 1 else up, 5, wbits, bits, kind("linear", "threshold"))
    s.linear(tail, 7, wbits, bits, kind("linear", "table", "threshold"))
    for kernel in (s.conv_transpose2d, s.linear):
        kernel(tail, 3, wbits, epilogue="float")
    s.mul(up, s.add(up, up, bits), epilogue="float")
    check(s, variant, data.draw(st.booleans()))


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_every_float_operator_equals_the_reference_to_rounding(variant, data):
    c, h, w = data.draw(CHANNELS), data.draw(SIZES), data.draw(SIZES)
    act = data.draw(st.sampled_from(ACTIVATIONS))
    s = Sampler(np.random.default_rng(data.draw(st.integers(0, 2**32))))
    x = s.dequantize(s.input((c, h, w), 8, 7))
    a = s.conv2d(x, c, data.draw(st.sampled_from((1, 3))), data.draw(st.sampled_from((1, 2))), activation=act)
    b = s.activation(s.add(a, a), data.draw(st.sampled_from(ACTIVATIONS)))
    pooled = s.maxpool(s.concat(a, b), 5)
    normed = s.layernorm(s.slice(pooled, 1, 2 * c), data.draw(st.integers(0, 2)))
    scores = s.softmax(s.matmul(normed, normed, transpose_b=True), 2)
    mixed = s.matmul(scores, normed)
    up = s.upsample(s.conv_transpose2d(mixed, 3, activation=act), 2)
    s.linear(s.mul(up, s.global_avgpool(up)), 5, activation=act)
    check(s, variant)


def test_quantize_rounds_half_to_even_and_clips_everything_else():
    s = Sampler(np.random.default_rng(0))
    plan = s.plan([s.quantize(s.input((5, 1, 3), 32), 4)])
    step = plan.tensors[1].scale
    steps = [0.5, 1.5, 2.5, -1e9, 1e9, np.inf, -np.inf, np.nan, 0, -0.5, 3.5, 4.5, 100, -3, 7]
    x = np.array(steps, np.float32).reshape(5, 1, 3) * np.float32(step)
    found = Executor(write(plan)).run([x])[0]
    np.testing.assert_array_equal(found, reference.run(plan, [x])[0])
    z = plan.tensors[1].zero_point
    assert found.ravel()[:3].tolist() == [min(15, z + v) for v in (0, 2, 2)] and found.ravel()[7] == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5), st.floats(0.3, 30), st.floats(0, 0.9), st.floats(0.1, 0.9))
def test_decode_and_nms_in_the_engine_give_the_same_bits_as_in_numpy(seed, classes, spread, score_threshold, iou_threshold):
    s = Sampler(np.random.default_rng(seed))
    maps = [s.input((channels, side, side + 1), 32) for side in (6, 3, 1) for channels in (64, classes)]
    s.decode(maps, (8, 16, 32))
    values = [v * np.float32(spread) for v in s.values()]
    plan = s.plan(maps, Metadata(strides=(8, 16, 32)))
    bare = replace(plan, tensors=plan.tensors[:-1], instructions=())
    boxes, scores = decode(values, (8, 16, 32), 16, classes)
    limits = (np.float32(score_threshold), np.float32(iou_threshold), 20)
    for engine in (Executor(write(plan)), Executor(write(bare)), Executor(write(plan), "reference")):
        for found, wanted in zip(engine.decoded(values), (boxes, scores)):
            np.testing.assert_array_equal(found, wanted)
        for found, wanted in zip(engine.detect(values, *limits), nms(boxes, scores, *limits)):
            np.testing.assert_array_equal(found, wanted)


def test_an_image_may_be_given_as_height_width_channels_or_as_planes_and_runs_twice_alike():
    s = Sampler(np.random.default_rng(1))
    x = s.input((3, 9, 5))
    engine = Executor(write(s.plan([s.conv2d(x, 8)])))
    image = s.values()[0].transpose(1, 2, 0)
    first = engine.run(image)[0].copy()
    np.testing.assert_array_equal(first, engine.run(np.ascontiguousarray(image.transpose(2, 0, 1)))[0])
    engine.run(np.full_like(image, 255))
    np.testing.assert_array_equal(first, engine.run(image)[0])


def test_a_float_network_takes_an_image_as_bytes_or_as_floats_in_0_to_1():
    s = Sampler(np.random.default_rng(1))
    engine = Executor(write(s.plan([s.conv2d(s.input((3, 9, 5), 32), 8)])))
    image = s.rng.integers(0, 256, (9, 5, 3)).astype(np.uint8)
    np.testing.assert_array_equal(engine.run(image)[0], engine.run(image * np.float32(1 / 255))[0])


@pytest.mark.parametrize("image", [np.zeros((9, 6, 3), np.uint8), np.zeros((9, 5, 3), np.float32), np.zeros((9, 5), np.uint8)])
def test_an_image_of_another_size_or_type_is_refused_with_the_name_of_the_input(image):
    s = Sampler(np.random.default_rng(1))
    x = s.input((3, 9, 5))
    with pytest.raises(ArtifactError, match=r"input 'input\.0'"):
        Executor(write(s.plan([s.conv2d(x, 8)]))).run(image)


def test_codes_past_their_bits_and_plans_without_decode_are_refused():
    s = Sampler(np.random.default_rng(1))
    x = s.input((3, 4, 4), 2)
    engine = Executor(write(s.plan([s.conv2d(x, 8)])))
    with pytest.raises(ArtifactError, match="2 bits"):
        engine.run([np.full((3, 4, 4), 4, np.uint8)])
    with pytest.raises(ArtifactError, match="detector"):
        engine.detect([np.zeros((3, 4, 4), np.uint8)])


def test_profile_names_each_instruction_and_memory_adds_up():
    s = Sampler(np.random.default_rng(2))
    x = s.input((3, 16, 16))
    y = s.add(a := s.conv2d(x, 8), a)
    engine = Executor(write(s.plan([y])))
    rows = engine.profile(s.values()[0])
    assert [(r.op, r.name) for r in rows] == [("conv2d", "conv2d.1"), ("add", "add.2")]
    assert all(r.us >= 0 and r.variant for r in rows)
    memory = engine.memory
    assert memory.arena_bytes == s.arena_bytes and memory.peak_bytes >= memory.arena_bytes + memory.file_bytes


def test_edgenas_isa_lowers_the_choice_of_kernels(monkeypatch):
    monkeypatch.setenv("EDGENAS_ISA", "portable")
    assert executor.isa() == "portable" and executor.variants("add") == ("reference",)
    s = Sampler(np.random.default_rng(2))
    s.conv2d(s.input((3, 8, 8)), 8)
    assert {row.variant for row in check(s, "").profile(s.values()[0])} == {"reference"}
    monkeypatch.setenv("EDGENAS_ISA", "mmx")
    with pytest.raises(ArtifactError, match="EDGENAS_ISA"):
        executor.variants("add")


def test_importing_the_runtime_loads_no_torch():
    code = "import sys, nas.runtime; sys.exit('torch' in sys.modules or 'cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
