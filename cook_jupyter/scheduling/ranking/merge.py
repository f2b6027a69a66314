"""Merge of users' lists of scores into one order, in columns.

Lives here: `merge_order`, which computes the order that repeatedly taking the smallest head would give; and
`segmented_cumsum`, running sums of many lists.
Not here: the contents of the lists (`scheduling.ranking.ranking`).

Scores never fall along a list, so sorting all scores merges the lists, except for ties between lists. Among
equal scores, the list served last goes first; a list was served later if its last score *before* the tie was
higher. If those scores are equal, too, the list served last in that earlier tie goes first. So the order of
the earlier tie is reversed here, and ties can be settled from the lowest score upwards.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from cook_jupyter.scheduling.arrays import Floats, Integers

_WIDE: Final = 24  # mean size of a tie from which columns are faster than lists
_SHORT: Final = 64  # lists up to this length are summed as rows of one table


def merge_order(scores: Floats | Integers, lengths: Integers) -> Integers:
    """Return the positions of `scores` in merged order.

    Args:
        scores: the concatenated lists, in starting order; never falling along a list.
        lengths: length of each list.
    """
    order = np.argsort(scores, kind="stable")
    by_score = scores[order]
    rises = by_score[1:] != by_score[:-1]
    if rises.all():
        return order
    owner = np.repeat(np.arange(len(lengths)), lengths)[order]
    changes = owner[1:] != owner[:-1]
    if not (changes & ~rises).any():
        return order
    return _settle_ties(order, rises, changes, np.cumsum(lengths) - lengths, owner)


def _settle_ties(
    order: Integers,
    rises: npt.NDArray[np.bool_],
    changes: npt.NDArray[np.bool_],
    begins: Integers,
    owner: Integers,
) -> Integers:
    """Return the order with ties between several lists settled.

    A tie consists of blocks: all elements of one list that have this score.
    """
    size = len(order)
    tie = np.concatenate(([0], np.cumsum(rises)))
    shared = np.zeros(int(tie[-1]) + 1, dtype=bool)
    shared[tie[1:][changes & ~rises]] = True
    in_shared = shared[tie]
    starts_block = np.concatenate(([True], rises | changes)) & in_shared
    block_at = np.flatnonzero(starts_block)
    firsts = order[block_at]
    block_tie = tie[block_at]
    position = np.empty(size, dtype=np.int64)
    position[order] = np.arange(size)
    previous_position = position[np.maximum(firsts - 1, 0)]
    served = firsts > begins[owner[block_at]]
    previous_tie = np.where(served, tie[previous_position], -1)
    previous_block = np.searchsorted(block_at, previous_position, side="right") - 1

    sequence = np.lexsort((-previous_tie, block_tie))
    sequence = _settle_linked_ties(sequence, block_tie, previous_tie, previous_block)

    ends = np.flatnonzero(np.concatenate((starts_block[1:] | ~in_shared[1:], [True])) & in_shared) + 1
    lengths = (ends - block_at)[sequence]
    offsets = np.cumsum(lengths) - lengths
    sources = np.repeat(block_at[sequence] - offsets, lengths) + np.arange(int(lengths.sum()))
    settled = order.copy()
    settled[in_shared] = order[sources]
    return settled


def _settle_linked_ties(
    sequence: Integers, block_tie: Integers, previous_tie: Integers, previous_block: Integers
) -> Integers:
    """Return the blocks' sequence with the order of those reversed that also shared the tie before."""
    in_tie = block_tie[sequence]
    previous = previous_tie[sequence]
    alike = (in_tie[1:] == in_tie[:-1]) & (previous[1:] == previous[:-1]) & (previous[1:] >= 0)
    if not alike.any():
        return sequence
    bounds = np.flatnonzero(np.concatenate(([True], in_tie[1:] != in_tie[:-1], [True])))
    number = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    unsettled = np.unique(number[1:][alike])
    begins, ends = bounds[:-1][unsettled], bounds[1:][unsettled]
    rank = np.empty(len(sequence), dtype=np.int64)
    rank[sequence] = np.arange(len(sequence))
    if int((ends - begins).sum()) >= _WIDE * len(begins):
        for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
            blocks = sequence[begin:end]
            # Lists that were never served have no previous block: the stable sort keeps their starting order.
            latest = np.where(previous_tie[blocks] < 0, 0, -rank[previous_block[blocks]])
            blocks = blocks[np.lexsort((latest, -previous_tie[blocks]))]
            sequence[begin:end] = blocks
            rank[blocks] = np.arange(begin, end)
        return sequence
    tie_of = number[rank]
    bound, size = bounds[:-1], np.diff(bounds)
    alone = previous_tie[sequence[bound]] == previous_tie[sequence[bounds[1:] - 1]]  # one previous tie
    turns = (alone & (previous_tie[sequence[bound]] >= 0))[tie_of] & (
        size[tie_of] == size[tie_of[previous_block]]
    )
    origin, odd = _trace_origins(turns, previous_block)
    settled_by_turning = np.zeros(len(size), dtype=bool)
    settled_by_turning[tie_of[turns]] = True
    is_independent = ~settled_by_turning[unsettled]
    _settle_one_by_one(
        sequence,
        rank,
        begins[is_independent].tolist(),
        ends[is_independent].tolist(),
        (previous_tie, previous_block, origin, odd),
    )
    turned = np.flatnonzero(turns)
    tie, source = tie_of[turned], origin[turned]
    offset = rank[source] - bound[tie_of[source]]
    sequence[np.where(odd[turned], bounds[1:][tie] - 1 - offset, bound[tie] + offset)] = turned
    return sequence


def _trace_origins(
    turns: npt.NDArray[np.bool_], previous_block: Integers
) -> tuple[Integers, npt.NDArray[np.bool_]]:
    """Trace blocks back to the first of a chain of ties between the same lists.

    The order of each such tie is the reverse of the one before it. Steps are doubled, so long chains need
    few.

    Args:
        turns: whether a block is in a tie that only reverses the one before.
        previous_block: block of the same list in the previous tie.

    Returns:
        the first block of each chain, and whether the order has been reversed an odd number of times since.
    """
    origin = np.where(turns, previous_block, np.arange(len(turns)))
    odd = turns.copy()
    while turns[origin].any():
        odd ^= odd[origin]
        origin = origin[origin]
    return origin, odd


def _settle_one_by_one(
    sequence: Integers,
    rank: Integers,
    begins: list[int],
    ends: list[int],
    facts: tuple[Integers, Integers, Integers, npt.NDArray[np.bool_]],
) -> None:
    """Settle ties one after the other, those that are not the reverse of another tie."""
    if not begins:
        return
    ties, previous_blocks, origin, odd = (column.tolist() for column in facts)

    def key(block: int) -> tuple[int, int]:
        # Lists that were never served keep their starting order: the sort is stable.
        if ties[block] < 0:
            return 1, 0
        previous = previous_blocks[block]
        position = int(rank[origin[previous]])
        return -ties[block], position if odd[previous] else -position

    for begin, end in zip(begins, ends, strict=True):
        members = sequence[begin:end].tolist()
        members.sort(key=key)
        sequence[begin:end] = members
        rank[members] = np.arange(begin, end)


@np.errstate(over="ignore")  # an infinite sum exceeds every limit, as intended
def segmented_cumsum(values: Floats, lengths: Integers) -> Floats:
    """Return the running sums of each list.

    Values are added one after the other, so that equal lists have exactly equal sums and their scores tie.

    Args:
        values: the concatenated lists.
        lengths: length of each list.
    """
    sums = np.empty_like(values)
    begins = np.cumsum(lengths) - lengths
    short = lengths <= _SHORT
    for begin, length in zip(begins[~short].tolist(), lengths[~short].tolist(), strict=True):
        np.cumsum(values[begin : begin + length], out=sums[begin : begin + length])
    widths = np.left_shift(1, np.ceil(np.log2(np.maximum(lengths, 1))).astype(np.int64))
    for width in np.unique(widths[short & (lengths > 0)]).tolist():
        segments = np.flatnonzero(short & (widths == width) & (lengths > 0))
        positions = begins[segments][:, None] + np.arange(width)
        valid = np.arange(width) < lengths[segments][:, None]
        table = np.where(valid, values[np.where(valid, positions, 0)], 0.0)
        sums[positions[valid]] = np.cumsum(table, axis=1)[valid]
    return sums
