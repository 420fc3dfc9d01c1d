import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from auricle.data.draws import generator, id_hashes, permutation, uniforms


@given(st.integers(0, 500), st.integers(0, 5))
def test_a_permutation_holds_each_row_once(size, epoch):
    assert sorted(permutation(size, 1, "x", epoch).tolist()) == list(range(size))


def test_a_permutation_depends_on_every_part_and_on_nothing_else():
    first = permutation(100, 1, "order", 0)
    assert (permutation(100, 1, "order", 0) == first).all()
    assert any((permutation(100, *parts) != first).any() for parts in [(2, "order", 0)])
    assert (permutation(100, 1, "order", 1) != first).any()


def test_uniforms_are_uniform_and_differ_by_id_epoch_and_occurrence():
    hashes, zero = id_hashes([f"utterance-{n}" for n in range(20_000)]), np.zeros(20_000, np.int32)
    drawn = uniforms(hashes, zero, 7, "speed", 0)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    counts, _ = np.histogram(drawn, bins=10, range=(0, 1))
    assert abs(counts - 2000).max() < 200
    for other in (
        uniforms(hashes, zero, 7, "speed", 1),
        uniforms(hashes, zero + 1, 7, "speed", 0),
        uniforms(hashes, zero, 8, "speed", 0),
    ):
        assert abs(np.corrcoef(drawn, other)[0, 1]) < 0.03
    assert (uniforms(hashes[5:9], zero[5:9], 7, "speed", 0) == drawn[5:9]).all()


def test_a_generator_is_its_key():
    assert generator(1, 2, "a").random() == generator(1, 2, "a").random()
    assert generator(1, 2, "a").random() != generator(1, 2, "b").random()
