"""Instruction counts under QEMU: blocks are counted as often as they run, and a kernel takes what its loop does."""

import shutil

import pytest

from nas.bench.engines import BenchError
from nas.bench.instructions import executed, run
from nas.deploy.errors import DeployError

TRACE = b"""\
----------------
IN: main
0x00400580:  d503201f  nop
0x00400584:  d280001d  movz     x29, #0

Trace 0: 0x7f1798000100 [0000000001009331/0000000000400580/00000001/00000200] main
Trace 0: 0x7f1798000100 [0000000001009331/0000000000400580/00000001/00000200] main
----------------
IN:
0x00400588:  94000092  bl       #0x4007f4

Trace 0: 0x7f1798000200 [0000000001009331/0000000000400588/00000001/00000200]
Trace 0: 0x7f1798000100 [0000000001009331/0000000000400580/00000001/00000200] main
----------------
IN: other
0x00410000:  d503201f  nop

Trace 0: 0x7f1798000100 [0000000001009331/0000000000410000/00000001/00000200] other
"""


def test_a_block_counts_as_often_as_it_runs_and_one_that_takes_its_place_with_its_own_size():
    assert executed(TRACE.splitlines(keepends=True)) == 2 + 2 + 1 + 2 + 1


@pytest.mark.parametrize(
    ("asked", "known"),
    [
        ({"on": "ssh://pi@raspberrypi"}, "qemu-aarch64 or qemu-arm"),
        ({"layers": ["y99"]}, "'y99' is no layer to measure; choose from y1"),
        ({"bits": ["fp32"]}, "'fp32' is no bit-width to measure; choose from w1a1"),
        ({"isa": "sve"}, "'sve' is no instruction set to measure"),
    ],
)
def test_what_cannot_be_counted_is_refused_with_what_can(asked, known):
    with pytest.raises(BenchError, match=known):
        run(**{"on": "qemu-aarch64", "layers": ["y8"], "bits": []} | asked)


@pytest.mark.compiler
def test_fewer_bits_take_fewer_instructions_on_arm_and_each_serves_many_multiply_adds():
    if not (shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")):
        pytest.skip("needs qemu-aarch64; on Debian: apt-get install qemu-user-static")
    try:
        few, many = run("qemu-aarch64", ["y4"], ["w1a1", "w8a8"]).rows
    except DeployError as error:
        if "no C++ compiler" in str(error):
            pytest.skip(str(error))
        raise
    assert few.variant == "w1a1_neon"
    assert 0 < few.instructions < many.instructions < many.macs
