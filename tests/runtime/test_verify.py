"""verify(plan) and the engine's validator: rules of memory and of each instruction, with the same verdict."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.runtime import ArtifactError, Executor, Plan, Tensor, reference, verify, write
from nas.runtime import artifact as artifact_module
from nas.runtime.executor import engine
from nas.runtime.sample import Sampler


def placed(plan, **offsets):
    """The plan with tensors, named as n3 for number 3, at other offsets of the arena."""
    tensors = tuple(replace(t, offset=offsets.get(f"n{k}", t.offset)) for k, t in enumerate(plan.tensors))
    return replace(plan, tensors=tensors)


def verdicts(plan, monkeypatch):
    """What Python and what the engine say of a plan: '' or the error. Python writes the file without looking."""
    found = []
    for check in (verify, lambda p: engine().Executor(unverified(p, monkeypatch))):
        try:
            check(plan)
            found.append("")
        except ArtifactError as error:
            found.append(str(error))
    return found


def unverified(plan, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(artifact_module, "verify", lambda plan: None)
        return write(plan)


def split_and_join(channels=(8, 12)):
    """image -> conv -> two slices -> conv of the second -> concat of first slice and conv."""
    s = Sampler(np.random.default_rng(3))
    whole = s.conv2d(s.input((3, 6, 6)), sum(channels))
    first, second = s.slice(whole, 0, channels[0]), s.slice(whole, channels[0], sum(channels))
    third = s.requantize(second)
    tensors = [replace(t, zero_point=s.tensors[whole].zero_point) for t in s.tensors]
    s.tensors[:] = tensors
    return s, s.plan([s.conv2d(s.concat(first, third), 4)])


def test_slices_and_concat_in_place_give_what_copies_give():
    s, plan = split_and_join()
    image = s.values()
    wanted = reference.run(plan, image)[0]
    np.testing.assert_array_equal(Executor(write(plan)).run(image)[0], wanted)
    t = plan.tensors
    base = t[1].offset
    aliased = placed(plan, n2=base, n3=base + 8 * 36, n4=t[5].offset + 8 * 36)
    np.testing.assert_array_equal(Executor(write(aliased)).run(image)[0], wanted)
    both = placed(aliased, n2=t[5].offset)                          # the first slice is copied to its place in the concat
    np.testing.assert_array_equal(Executor(write(both)).run(image)[0], wanted)
    over = placed(aliased, n4=base + 8 * 36, n5=base)               # the requantize works in place, then the concat is free
    np.testing.assert_array_equal(Executor(write(over)).run(image)[0], wanted)


def test_a_write_over_a_value_that_is_still_read_is_refused_by_both(monkeypatch):
    _, plan = split_and_join()
    t = plan.tensors
    for offsets in ({"n1": t[0].offset}, {"n4": t[2].offset}, {"n6": t[5].offset + 4}, {"n5": t[4].offset - 64}):
        for message in verdicts(placed(plan, **offsets), monkeypatch):
            assert "destroys" in message


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_python_and_the_engine_agree_on_any_placement_and_run_it_right_if_they_allow_it(data):
    s, plan = split_and_join((data.draw(st.sampled_from((4, 8, 5))), data.draw(st.sampled_from((4, 12, 7)))))
    group = 4 * 6 * 6
    spots = sorted({t.offset + group * k for t in plan.tensors for k in range(4)})
    moved = {f"n{k}": data.draw(st.sampled_from(spots)) for k in range(len(plan.tensors)) if data.draw(st.booleans())}
    plan = replace(placed(plan, **moved), arena_bytes=2 * plan.arena_bytes)
    with pytest.MonkeyPatch.context() as patch:
        python, cpp = verdicts(plan, patch)
    assert bool(python) == bool(cpp), (python, cpp)
    if not python:
        image = s.values()
        np.testing.assert_array_equal(Executor(write(plan)).run(image)[0], reference.run(plan, image)[0])


def first(plan, **changes):
    return replace(plan, instructions=(replace(plan.instructions[0], **changes), *plan.instructions[1:]))


def tensor(plan, number, **changes):
    tensors = list(plan.tensors)
    tensors[number] = replace(tensors[number], **changes)
    return replace(plan, tensors=tuple(tensors))


def requant(plan, **changes):
    return first(plan, requant=replace(plan.instructions[0].requant, **changes))


def attrs(plan, **changes):
    return first(plan, attrs={**plan.instructions[0].attrs, **changes})


BROKEN = {
    "the output's shape": (lambda p: tensor(p, 1, shape=(20, 7, 6)), "6"),
    "a stride": (lambda p: attrs(p, stride=3), "stride"),
    "a padding": (lambda p: attrs(p, padding=3), "padding"),
    "groups": (lambda p: attrs(p, groups=2), "groups"),
    "a zero point": (lambda p: tensor(p, 1, zero_point=256), "zero point"),
    "bits": (lambda p: tensor(p, 1, bits=9), "bits"),
    "a scale": (lambda p: tensor(p, 1, scale=0.0), "scale"),
    "an offset": (lambda p: tensor(p, 1, offset=p.tensors[1].offset + 2), "multiple of 4"),
    "a tensor past the arena": (lambda p: tensor(p, 1, offset=p.arena_bytes), "arena"),
    "a clip range": (lambda p: requant(p, hi=256), "clip"),
    "a shift": (lambda p: requant(p, shift=63), "shift"),
    "a bias": (lambda p: requant(p, bias=np.full(20, 2**62)), "bias"),
    "a multiplier's length": (lambda p: requant(p, multiplier=np.ones(19, np.int32)), "multiplier"),
    "an input nothing produced": (lambda p: replace(first(p, inputs=(2,)), tensors=(*p.tensors, p.tensors[0])), "produced"),
    "an output produced by nothing": (lambda p: replace(p, outputs=(9,)), "produced"),
    "a tensor of no instruction": (lambda p: replace(p, tensors=(*p.tensors, Tensor("x", "u8", (1, 1, 1)))), "produced"),
    "no outputs": (lambda p: replace(p, outputs=()), "output"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_refused_by_both_with_its_name(name, monkeypatch):
    change, word = BROKEN[name]
    s = Sampler(np.random.default_rng(3))
    plan = s.plan([s.conv2d(s.input((3, 6, 6)), 20)])
    assert verdicts(plan, monkeypatch) == ["", ""]
    for message in verdicts(change(plan), monkeypatch):
        assert word in message, message


def test_a_sum_whose_multipliers_and_biases_differ_in_number_is_refused_by_both(monkeypatch):
    s = Sampler(np.random.default_rng(3))
    x = s.input((3, 6, 6))
    plan = s.plan([s.add(x, x)])
    assert verdicts(plan, monkeypatch) == ["", ""]
    for message in verdicts(requant(plan, multiplier=np.ones(3, np.int32)), monkeypatch):
        assert "bias" in message, message


def test_an_accumulator_that_could_pass_int32_is_refused():
    s = Sampler(np.random.default_rng(3))
    y = s.linear(s.input((1024, 8, 9)), 1)
    with pytest.raises(ArtifactError, match="accumulator"):
        verify(s.plan([y]))


def test_a_plan_of_the_wrong_kind_of_weights_is_refused_by_name():
    s = Sampler(np.random.default_rng(3))
    plan: Plan = s.plan([s.conv2d(s.input((3, 6, 6)), 20, wbits=2)])
    with pytest.raises(ArtifactError, match=r"conv2d 'conv2d\.1'.*2 bits"):
        verify(replace(plan, weights={"weight0": plan.weights["weight0"] * np.int8(2)}))
    with pytest.raises(ArtifactError, match=r"conv2d 'conv2d\.1'.*missing"):
        verify(replace(plan, weights={}))
