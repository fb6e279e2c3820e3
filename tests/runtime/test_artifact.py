"""The .edge file: what is written is read back, Python and C++ agree on it, and nothing broken gets through."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.runtime import ArtifactError, Executor, Metadata, artifact, read, write
from nas.runtime.executor import engine
from nas.runtime.sample import Sampler


def detector(seed=0, side=8):
    """A tiny plan with every kind of section: weights of several bits, all epilogues, tables, floats, a decode."""
    s = Sampler(np.random.default_rng(seed))
    x = s.input((3, side, side))
    a = s.conv2d(x, 5, bits=4, epilogue="threshold")
    b = s.conv2d(a, 8, wbits=2, bits=2, epilogue="table")
    c = s.requantize(s.add(b, b, bits=2), 4)
    d = s.concat(s.slice(c, 1, 6), c)
    f = s.activation(s.conv2d(s.dequantize(s.maxpool(d)), 4), "silu")
    maps = [s.conv2d(s.quantize(s.layernorm(f, 0)), 8, 1, wbits=4, epilogue="float"), s.conv2d(d, 2, 1, wbits=1, epilogue="float")]
    s.decode(maps, (8,), bins=2)
    return s.plan(maps, Metadata(("cell", "card"), (side, side), (8,), 2, provenance={"seed": seed}))


@settings(max_examples=50, deadline=None)
@given(st.sampled_from((1, 2, 3, 4, 8)), st.integers(1, 9), st.integers(1, 40), st.integers(0, 2**32))
def test_weights_packed_in_python_are_unpacked_in_cpp_to_the_same_codes(bits, rows, codes, seed):
    rng = np.random.default_rng(seed)
    top = 2 ** (bits - 1)
    w = (rng.choice([-1, 1], (rows, codes)) if bits == 1 else rng.integers(-top if bits < 8 else -127, top, (rows, codes))).astype(np.int8)
    packed = artifact.pack_weights(w, bits)
    assert len(packed) == rows * artifact.row_bytes(codes, bits)
    np.testing.assert_array_equal(engine().unpack_weights(packed, rows, codes, bits), w)
    np.testing.assert_array_equal(artifact.unpack_weights(packed, (rows, codes), bits), w)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 255), st.integers(1, 200)), min_size=1, max_size=20))
def test_any_table_survives_its_runs(runs):
    table = np.concatenate([np.full(length, value, np.uint8) for value, length in runs])
    np.testing.assert_array_equal(artifact.unpack_table(artifact.pack_table(table)), table)


@pytest.mark.parametrize("runs", [b"\x80", b"\xff", b"\xc0\xff\x40", b"\x3f" * 66], ids=["below 0", "cut off", "above 255", "too long"])
def test_runs_that_are_no_table_are_refused_by_both_readers(runs, monkeypatch):
    monkeypatch.setattr(artifact, "pack_table", lambda table: runs)
    file = write(detector())
    for reader in (read, Executor):
        with pytest.raises(ArtifactError, match="table"):
            reader(file)


def test_a_plan_is_read_back_as_it_was_written():
    plan = detector()
    file = write(plan)
    again = read(file)
    assert again.tensors == tuple(type(t)(**{**t.__dict__, "scale": float(np.float32(t.scale))}) for t in plan.tensors)
    for found, wanted in zip(again.instructions, plan.instructions, strict=True):
        assert (found.op, found.name, found.inputs, found.outputs) == (wanted.op, wanted.name, wanted.inputs, wanted.outputs)
    assert (again.inputs, again.outputs, again.arena_bytes) == (plan.inputs, plan.outputs, plan.arena_bytes)
    assert again.metadata == plan.metadata
    assert write(again) == file
    assert Executor(file).metadata == plan.metadata


def test_a_weight_is_stored_once_and_the_rest_is_small():
    s = Sampler(np.random.default_rng(0))
    x = s.input((64, 8, 8))
    outputs = [s.conv2d(x, 64) for _ in range(4)]
    weights = dict.fromkeys(s.weights, s.weights["weight0"])
    size = len(write(s.plan(outputs)))
    s.weights = weights
    assert size - len(write(s.plan(outputs))) >= 3 * 64 * 64 * 9
    assert size < 4 * 64 * (64 * 9 + 12) + 2000


def test_save_and_load_name_the_file(tmp_path):
    path = tmp_path / "m.edge"
    plan = detector()
    assert artifact.save(plan, path) == path.stat().st_size == len(write(plan))
    assert write(artifact.load(path)) == write(plan)
    path.write_bytes(path.read_bytes()[:-1])
    for load in (artifact.load, Executor.load):
        with pytest.raises(ArtifactError, match=r"m\.edge.*truncated"):
            load(path)
        with pytest.raises(ArtifactError, match="none.edge"):
            load(tmp_path / "none.edge")


def test_every_prefix_of_a_file_is_refused():
    file = write(detector())
    for n in range(len(file)):
        with pytest.raises(ArtifactError):
            engine().Executor(file[:n])
        if n >= 32:
            with pytest.raises(ArtifactError):
                engine().Executor(artifact.seal(file[:16] + struct.pack("<I", n) + file[20:n]))


def test_a_flipped_bit_without_a_new_checksum_is_always_refused():
    file = write(detector())
    for at in range(0, len(file), 7):
        broken = bytearray(file)
        broken[at] ^= 1 << (at % 8)
        with pytest.raises(ArtifactError):
            engine().Executor(bytes(broken))


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_changed_bytes_under_a_new_checksum_are_refused_or_run_without_a_crash(data):
    file = bytearray(write(detector()))
    body = 32 + 12 * struct.unpack_from("<I", file, 24)[0]
    records = struct.unpack_from("<I", file, 32 + 12 * 2 + 4)[0] + 400
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.one_of(st.integers(16, len(file) - 1), st.integers(16, body), st.integers(body, min(records, len(file) - 1))))
        file[at] = data.draw(st.one_of(st.integers(0, 255), st.sampled_from((0, 1, 127, 128, 255))))
    sealed = artifact.seal(bytes(file))
    try:
        found = engine().Executor(sealed)
    except ArtifactError:
        return
    _, dtype, shape, *_ = found.inputs[0]
    if found.memory["arena_bytes"] < 10**6 and len(found.inputs) == 1:
        found.detect([np.zeros(shape, np.uint8 if dtype == "u8" else np.float32)], 0.1, 0.5, 10)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_python_reads_what_the_engine_reads_and_refuses_what_it_refuses(data):
    """Apart from what the engine does not look at: metadata and the zero bytes between sections."""
    file = bytearray(write(detector()))
    start, size = (struct.unpack_from("<I", file, 32 + 12 * 1 + k)[0] for k in (4, 8))
    at = data.draw(st.integers(start, start + size - 1))
    file[at] ^= 1 << data.draw(st.integers(0, 7))
    sealed = artifact.seal(bytes(file))
    verdicts = []
    for reader in (read, engine().Executor):
        try:
            reader(sealed)
            verdicts.append("read")
        except ArtifactError as error:
            verdicts.append(f"refused: {error}")
    assert verdicts[1] == "read" or verdicts[0] != "read", verdicts


def test_file_with_metadata_that_is_not_json_is_refused():
    file = bytearray(write(detector()))
    start = struct.unpack_from("<I", file, 32 + 12 * 5 + 4)[0]
    file[start] = ord("[")
    for reader in (read, Executor):
        with pytest.raises(ArtifactError, match="metadata"):
            reader(artifact.seal(bytes(file)))
