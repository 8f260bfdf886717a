"""The array steps, each against what it means written as a slow loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttbert.recipe.steps import STEPS, Array, Step, interleave, pad_columns, run_steps, to_matrix, to_norm, transpose


def numbered(*shape: int, start: int = 0) -> Array:
    """An array of which no two values are equal."""
    return np.arange(start, start + np.prod(shape), dtype=np.float32).reshape(shape)


def interleaved_by_hand(arrays: list[Array], grid: int) -> Array:
    """Column by column: which array, and which of its columns, comes next."""
    columns = []
    share = arrays[0].shape[-1] // grid
    for core in range(grid):
        for array in arrays:
            for column in range(core * share, (core + 1) * share):
                columns.append(array[..., column])
    return np.stack(columns, axis=-1)


def test_transpose_turns_what_torch_stores_into_what_a_matmul_wants() -> None:
    weight, states = numbered(3, 5), numbered(2, 5)
    (turned,) = transpose([weight])
    by_hand = [[sum(states[i, k] * weight[j, k] for k in range(5)) for j in range(3)] for i in range(2)]
    assert (states @ turned).tolist() == by_hand


def test_interleave_written_out() -> None:
    query, key, value = (np.array([f"{name}{i}" for i in range(4)]) for name in "qkv")
    (fused,) = interleave([query, key, value], grid=2)  # type: ignore[list-item]
    assert " ".join(fused) == "q0 q1 k0 k1 v0 v1 q2 q3 k2 k3 v2 v3"


@given(grid=st.integers(1, 8), share=st.integers(1, 5), rows=st.one_of(st.none(), st.integers(1, 4)), count=st.integers(1, 3))
def test_interleave_gives_each_core_its_columns_of_every_array(grid: int, share: int, rows: int | None, count: int) -> None:
    shape = (grid * share,) if rows is None else (rows, grid * share)
    arrays = [numbered(*shape, start=1000 * i) for i in range(count)]
    (fused,) = interleave(arrays, grid)
    assert fused.shape == (*shape[:-1], count * grid * share)
    assert (fused == interleaved_by_hand(arrays, grid)).all()


@given(grid=st.integers(1, 8), share=st.integers(1, 4), rows=st.integers(1, 3))
def test_interleave_loses_nothing(grid: int, share: int, rows: int) -> None:
    parts = [numbered(rows, grid * share, start=1000 * i) for i in range(3)]
    (fused,) = interleave(parts, grid)
    apart = fused.reshape(rows, grid, 3, share)
    for i, part in enumerate(parts):
        assert (apart[:, :, i].reshape(rows, -1) == part).all()


def test_interleave_on_one_core_is_concatenation() -> None:
    parts = [numbered(2, 6), numbered(2, 6, start=100)]
    assert (interleave(parts, 1)[0] == np.concatenate(parts, axis=-1)).all()


def test_arrays_that_cannot_be_split_evenly_are_refused() -> None:
    with pytest.raises(ValueError, match="reshape"):
        interleave([numbered(2, 10)], 4)


@given(rows=st.integers(1, 4), columns=st.integers(1, 8), more=st.integers(0, 8))
def test_pad_columns_adds_zeros_on_the_right(rows: int, columns: int, more: int) -> None:
    array = numbered(rows, columns, start=1)
    (padded,) = pad_columns([array], columns + more)
    assert padded.shape == (rows, columns + more)
    assert (padded[:, :columns] == array).all() and not padded[:, columns:].any()


def test_vector_is_padded_too_and_none_is_ever_cut() -> None:
    assert pad_columns([numbered(2, start=1)], 4)[0].tolist() == [1, 2, 0, 0]
    with pytest.raises(ValueError, match="negative"):
        pad_columns([numbered(5)], 4)


def test_matrix_has_rank_four_and_a_vector_is_one_row() -> None:
    assert [each.shape for each in to_matrix([numbered(3, 5), numbered(5)])] == [(1, 1, 3, 5), (1, 1, 1, 5)]
    assert to_matrix([numbered(3, 5)])[0].ravel().tolist() == list(range(15))


def test_norm_is_in_rows_of_32() -> None:
    (made,) = to_norm([numbered(96)])
    assert made.shape == (1, 1, 3, 32)
    assert all(made[0, 0, i // 32, i % 32] == i for i in range(96))


def test_steps_run_in_order_and_leave_one_array_in_float32() -> None:
    steps = (Step("transpose"), Step("interleave", {"grid": 2}), Step("to_matrix"))
    parts = [numbered(4, 3, start=100 * i) for i in range(3)]
    made = run_steps(steps, parts)
    assert made.shape == (1, 1, 3, 12) and made.dtype == np.float32
    assert (made[0, 0] == interleaved_by_hand([part.T for part in parts], 2)).all()


def test_steps_do_not_change_what_they_are_given() -> None:
    part = numbered(4, 4)
    run_steps((Step("transpose"), Step("pad_columns", {"width": 8}), Step("to_matrix")), [part])
    assert (part == numbered(4, 4)).all()


def test_steps_that_leave_several_arrays_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="2 arrays are left"):
        run_steps((Step("transpose"),), [numbered(2, 2), numbered(2, 2)])


def test_every_step_has_a_version() -> None:
    assert all(version >= 1 for version, _ in STEPS.values())
    assert Step("interleave", {"grid": 8}).document() == {"step": "interleave", "grid": 8}
