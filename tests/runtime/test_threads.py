"""Several threads in one executor: the same bytes as one, whoever calls it and whatever becomes of the process."""

import os
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.runtime import ArtifactError, Executor, Metadata, executor, write
from nas.runtime.sample import Sampler

VARIANTS = sorted({v for op in ("conv2d", "conv2d_f32") for v in executor.variants(op)})


def network(rng, c, h, w, wbits, bits):
    """A network with every operator, all of which threads share, and its sampler: integer layers, float layers, a decode."""
    s = Sampler(rng)
    x = s.input((c, h, w), bits)
    a = s.conv2d(x, 17, 3, 2, wbits=wbits, bits=bits)
    b = s.conv2d(s.add(a, a, bits), 9, 1, wbits=wbits, bits=2, epilogue="threshold")
    pooled = s.maxpool(s.conv2d(b, 12, 3, wbits=2, bits=2, epilogue="threshold"), 5)
    gated = s.mul(pooled, s.global_avgpool(pooled, bits), bits)
    up = s.upsample(s.conv_transpose2d(s.requantize(gated, bits, "linear"), 6, wbits, bits))
    f = s.conv2d(s.dequantize(up), 10, 3, 2, activation="silu")
    g = s.activation(s.upsample(s.conv_transpose2d(s.maxpool(s.add(f, f), 3), 5)), "sigmoid")
    codes = s.quantize(s.mul(g, s.global_avgpool(g)), bits)
    joined = s.slice(s.concat(s.slice(b, 1, 8), b, s.slice(b, 3, 9)), 2, 19)
    product = s.concat(s.softmax(s.matmul(f, f, transpose_b=True), 2), s.layernorm(s.matmul(f, f, transpose_b=True), 0))
    scores = [s.linear(b, 11, wbits, bits), s.linear(b, 6, wbits, epilogue="float"), s.linear(f, 7)]
    maps = [s.conv2d(codes, channels, 1, wbits=8, epilogue="float") for channels in (64, 3)]
    s.decode(maps, (8,))
    outputs = [a, b, pooled, gated, up, f, g, codes, joined, product, *scores, *maps]
    return s, s.plan(outputs, Metadata(strides=(8,)))


def threaded(plan, variant, threads):
    """The engine itself, with every step shared however small it is."""
    return executor.engine().Executor(write(plan), variant, threads=threads, split_from=1)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32), st.sampled_from(VARIANTS), st.integers(2, 5), st.integers(1, 40), st.integers(1, 23), st.integers(1, 23),
    st.sampled_from(((8, 8), (4, 4), (2, 2), (1, 1)))
)  # fmt: skip
def test_any_number_of_threads_gives_the_same_bytes_as_one(seed, variant, threads, c, h, w, precision):
    s, plan = network(np.random.default_rng(seed), c, h, w, *precision)
    inputs = s.values()
    engine = threaded(plan, variant, threads)
    wanted = Executor(write(plan), variant)
    for _ in range(2):
        for name, a, b in zip(plan.outputs, wanted.run(inputs), engine.run(inputs), strict=True):
            assert a.tobytes() == b.tobytes(), plan.tensors[name]
    assert wanted._engine.decoded(inputs).tobytes() == engine.decoded(inputs).tobytes()


def test_python_threads_take_turns_on_one_executor_and_run_side_by_side_on_two():
    s, plan = network(np.random.default_rng(3), 12, 20, 20, 4, 4)
    inputs = s.values()
    engines = [threaded(plan, "", 3), threaded(plan, "", 2)]
    wanted = [a.tobytes() for a in Executor(write(plan)).run(inputs)]
    wrong = []

    def use(engine):
        for _ in range(50):
            if [a.tobytes() for a in engine.run(inputs)] != wanted:
                wrong.append(engine)

    callers = [threading.Thread(target=use, args=(engines[k % 2],)) for k in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_executors_still_work_in_a_forked_child_which_does_their_shares_alone_last_one_first():
    """So a share that writes into the next one's part, which ascending order would hide, is seen."""
    cases = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        s, plan = network(rng, *rng.integers(1, 24, 3).tolist(), *((8, 8), (4, 4), (2, 2), (1, 1))[seed % 4])
        x = s.values()
        cases += [(threaded(plan, variant, 2 + seed % 3), x, Executor(write(plan), variant).run(x)) for variant in VARIANTS]
    child = os.fork()
    if child == 0:
        same = False
        try:
            same = all(a.tobytes() == b.tobytes() for engine, x, wanted in cases for a, b in zip(wanted, engine.run(x), strict=True))
            cases.clear()  # which waits for no thread
        finally:
            os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    engine, x, wanted = cases[0]
    assert [a.tobytes() for a in engine.run(x)] == [a.tobytes() for a in wanted]


@pytest.mark.parametrize("threads", [0, -1, 257])
def test_an_impossible_number_of_threads_is_refused_with_what_would_work(threads):
    with pytest.raises(ArtifactError, match=f"threads is {threads}; choose 1 to 256"):
        Executor(write(network(np.random.default_rng(0), 3, 4, 4, 8, 8)[1]), threads=threads)
