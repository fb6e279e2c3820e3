"""Convolution with codebooks: every variant against numpy, for levels of any spacing and sums of any length."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from nas.runtime import ArtifactError
from nas.runtime.codebook import MAX_TERMS, conv2d_codebook
from nas.runtime.executor import variants


def by_variant(*arrays, **keywords):
    """(variant, result) of every variant that takes the layer, and of the one that is chosen; the reference takes all."""
    yield "chosen", conv2d_codebook(*arrays, **keywords)
    for variant in variants("conv2d_codebook"):
        try:
            yield variant, conv2d_codebook(*arrays, **keywords, variant=variant)
        except ArtifactError as fault:
            if variant == "reference" or f"no variant '{variant}' for this layer" not in str(fault):
                raise


def definition(x, w, weight_levels, activation_levels, stride=1, padding=0, outside=0):
    """int64 sums (C_out, H, W) of dense weights."""
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding)), constant_values=outside)
    k = w.shape[2]
    windows = sliding_window_view(activation_levels.astype(np.int64)[padded], (k, k), axis=(1, 2))[:, ::stride, ::stride]
    return np.einsum("chwij,ocij->ohw", windows, weight_levels.astype(np.int64)[w])


@st.composite
def layers(draw):
    """(x, w, weight levels, activation levels, keywords): odd sizes, single pixels, channels of all remainders, any codebook."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    k, stride = draw(st.sampled_from([1, 1, 2, 3, 3, 5])), draw(st.integers(1, 2))
    padding = draw(st.integers(0, k - 1))
    low = max(1, k - 2 * padding)
    c_in, c_out, h, w = (draw(st.integers(a, b)) for a, b in ((1, 11), (1, 9), (low, low + 9), (low, low + 40)))
    books = []
    for _ in range(2):
        size, span = 2 ** draw(st.integers(1, 4)), draw(st.sampled_from([2, 5, 12, 127]))
        books.append(rng.integers(-span - (span == 127), span, size, np.int8, endpoint=True))
    codes = (rng.integers(0, len(book), shape, np.uint8) for book, shape in zip(books, ((c_out, c_in, k, k), (c_in, h, w))))
    weights, x = codes
    outside = draw(st.integers(0, len(books[1]) - 1))
    return x, weights, *books, {"stride": stride, "padding": padding, "outside": outside}


@given(layer=layers(), shares=st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_every_variant_gives_the_sums_of_the_definition(layer, shares):
    *arrays, keywords = layer
    wanted = definition(*arrays, **keywords)
    for variant, sums in by_variant(*arrays, **keywords, shares=shares):
        np.testing.assert_array_equal(sums, wanted, err_msg=variant)


@given(layer=layers(), bits=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_thresholds_turn_the_sums_into_codes(layer, bits, seed):
    *arrays, keywords = layer
    sums, rng = definition(*arrays, **keywords), np.random.default_rng(seed)
    sign = rng.choice(np.array([-1, 1], np.int8), len(sums))
    steps = np.sort(rng.choice(np.append(sums, -sums), (len(sums), 2**bits - 1)), axis=1).astype(np.int32)
    wanted = (sign[:, None, None, None] * sums[:, None] >= steps[:, :, None, None]).sum(1)
    for variant, codes in by_variant(*arrays, **keywords, thresholds=steps, sign=sign):
        np.testing.assert_array_equal(codes, wanted, err_msg=variant)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("extreme", [(127, 127), (-128, 127), (-128, -128), (5, 5)])
def test_sums_are_exact_at_the_longest_and_largest(bits, extreme):
    """Each table entry at the far end of its row, so many times that bytes, words and 32 bits fill up."""
    terms = MAX_TERMS
    books = [np.linspace(-level, level, 2**bits).clip(-128, 127).astype(np.int8) for level in extreme]
    for w_code in (0, 2**bits - 1):
        for a_code in (0, 2**bits - 1):
            w, x = (np.full(shape, code, np.uint8) for shape, code in (((1, terms, 1, 1), w_code), ((terms, 1, 3), a_code)))
            wanted = terms * int(books[0][w_code]) * int(books[1][a_code])
            assert (conv2d_codebook(x, w, *books) == wanted).all()


def test_a_hundred_thousand_random_products_add_up_exactly():
    rng = np.random.default_rng(0)
    books = [rng.integers(-128, 127, 4, np.int8, endpoint=True) for _ in range(2)]
    w, x = rng.integers(0, 4, (5, 100_000 // 9, 3, 3), np.uint8), rng.integers(0, 4, (100_000 // 9, 4, 9), np.uint8)
    np.testing.assert_array_equal(conv2d_codebook(x, w, *books, padding=1, outside=2), definition(x, w, *books, padding=1, outside=2))


def test_groups_are_left_to_the_reference():
    rng = np.random.default_rng(1)
    books = [np.array([-7, 0, 1, 90], np.int8), np.array([3, -4, 50, 8], np.int8)]
    w, x = rng.integers(0, 4, (6, 2, 3, 3), np.uint8), rng.integers(0, 4, (4, 6, 7), np.uint8)
    halves = [definition(x[2 * g : 2 * g + 2], w[3 * g : 3 * g + 3], *books) for g in range(2)]
    np.testing.assert_array_equal(conv2d_codebook(x, w, *books, groups=2), np.concatenate(halves))
    with pytest.raises(ArtifactError, match="no variant 'lookup_avx2' for this layer"):
        conv2d_codebook(x, w, *books, groups=2, variant="lookup_avx2")


def test_what_cannot_run_is_named():
    books = np.arange(4, dtype=np.int8), np.arange(4, dtype=np.int8)
    x, w = np.zeros((2, 4, 4), np.uint8), np.zeros((1, 2, 3, 3), np.uint8)
    for faulty, message in (
        (lambda: conv2d_codebook(x, w + 4, *books), "weight codes up to 4 and 4 levels"),
        (lambda: conv2d_codebook(x + 4, w, *books), "an activation code has no level"),
        (lambda: conv2d_codebook(x, w, books[0], books[1][:3]), "3 activation levels; 2, 4, 8 and 16 work"),
        (lambda: conv2d_codebook(x, w[:, :1], *books), r"weights \(1, 1, 3, 3\) do not suit 2 channels"),
        (lambda: conv2d_codebook(x, w, *books, outside=4), "the code outside the image"),
        (lambda: conv2d_codebook(x, w, *books, stride=3), "kernel, stride or padding"),
        (lambda: conv2d_codebook(x[:, :2], w, *books), "larger than the padded input"),
        (lambda: conv2d_codebook(x, w, *books, thresholds=np.zeros((1, 2))), r"thresholds are \(C_out, 1, 3, 7 or 15\)"),
        (lambda: conv2d_codebook(np.zeros((MAX_TERMS + 1, 1, 1), np.uint8), np.zeros((1, MAX_TERMS + 1, 1, 1), np.uint8), *books),
         "131072 products in one sum; at most 131071"),
    ):  # fmt: skip
        with pytest.raises(ArtifactError, match=message):
            faulty()
