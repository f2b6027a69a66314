"""Merging users' lists of scores into one order, all at once.

Lives here: `merge_order`, which gives the very order that taking the smallest head again and again gives,
without taking them one by one; and sums along many lists.
Not here: what the lists hold (`scheduling.ranking.ranking`).

Scores never fall along a list, so sorting them all merges the lists. What is left are ties between lists.
Among equal scores the list served last goes first, and a list was served later if its last score *before* the
tie was higher. If those were equal too, then the one served last in that earlier tie: so an order made there
turns round here, and ties can be settled from the lowest score up.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from cook_jupyter.scheduling.arrays import Floats, Integers

_WIDE: Final = 24  # mean size of a tie from which columns beat plain lists
_SHORT: Final = 64  # lists up to this length are summed as rows of one table


def merge_order(scores: Floats | Integers, lengths: Integers) -> Integers:
    """Return the positions of `scores` in merged order.

    Args:
        scores: the lists, one behind the other, in starting order; never falling along a list.
        lengths: how long each list is.
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
    return _with_ties_settled(order, rises, changes, np.cumsum(lengths) - lengths, owner)


def _with_ties_settled(
    order: Integers,
    rises: npt.NDArray[np.bool_],
    changes: npt.NDArray[np.bool_],
    begins: Integers,
    owner: Integers,
) -> Integers:
    """The order with each tie between several lists put right.

    A tie is made of blocks: all elements of one list that have this score.
    """
    size = len(order)
    tie = np.concatenate(([0], np.cumsum(rises)))
    shared = np.zeros(int(tie[-1]) + 1, dtype=bool)
    shared[tie[1:][changes & ~rises]] = True
    in_shared = shared[tie]
    starts_block = np.concatenate(([True], rises | changes)) & in_shared
    block_at = np.flatnonzero(starts_block)
    first = order[block_at]
    block_tie = tie[block_at]
    place = np.empty(size, dtype=np.int64)
    place[order] = np.arange(size)
    before_at = place[np.maximum(first - 1, 0)]
    served = first > begins[owner[block_at]]
    before_tie = np.where(served, tie[before_at], -1)
    before_block = np.searchsorted(block_at, before_at, side="right") - 1

    sequence = np.lexsort((-before_tie, block_tie))
    sequence = _turned(sequence, block_tie, before_tie, before_block)

    ends = np.flatnonzero(np.concatenate((starts_block[1:] | ~in_shared[1:], [True])) & in_shared) + 1
    lengths = (ends - block_at)[sequence]
    offsets = np.cumsum(lengths) - lengths
    sources = np.repeat(block_at[sequence] - offsets, lengths) + np.arange(int(lengths.sum()))
    settled = order.copy()
    settled[in_shared] = order[sources]
    return settled


def _turned(
    sequence: Integers, block_tie: Integers, before_tie: Integers, before_block: Integers
) -> Integers:
    """The blocks' sequence with those put right that also shared the tie before: theirs turns round."""
    in_tie = block_tie[sequence]
    before = before_tie[sequence]
    alike = (in_tie[1:] == in_tie[:-1]) & (before[1:] == before[:-1]) & (before[1:] >= 0)
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
            # Lists that were never served have no block before: the stable sort keeps their starting order.
            latest = np.where(before_tie[blocks] < 0, 0, -rank[before_block[blocks]])
            blocks = blocks[np.lexsort((latest, -before_tie[blocks]))]
            sequence[begin:end] = blocks
            rank[blocks] = np.arange(begin, end)
        return sequence
    tie_of = number[rank]
    bound, size = bounds[:-1], np.diff(bounds)
    alone = before_tie[sequence[bound]] == before_tie[sequence[bounds[1:] - 1]]  # one tie before for all
    turns = (alone & (before_tie[sequence[bound]] >= 0))[tie_of] & (
        size[tie_of] == size[tie_of[before_block]]
    )
    origin, odd = _traced_back(turns, before_block)
    settled_by_turning = np.zeros(len(size), dtype=bool)
    settled_by_turning[tie_of[turns]] = True
    own = ~settled_by_turning[unsettled]
    _settle(sequence, rank, begins[own].tolist(), ends[own].tolist(), (before_tie, before_block, origin, odd))
    turned = np.flatnonzero(turns)
    tie, source = tie_of[turned], origin[turned]
    offset = rank[source] - bound[tie_of[source]]
    sequence[np.where(odd[turned], bounds[1:][tie] - 1 - offset, bound[tie] + offset)] = turned
    return sequence


def _traced_back(
    turns: npt.NDArray[np.bool_], before_block: Integers
) -> tuple[Integers, npt.NDArray[np.bool_]]:
    """Trace blocks back to the first of a chain of ties between the same lists.

    Each such tie is the one before it turned round. Steps are doubled, so long chains take few.

    Args:
        turns: which blocks are in a tie that only turns round the one before.
        before_block: the block of the same list in the tie before.

    Returns:
        the first block of each chain, and whether the order turned round an odd number of times since.
    """
    origin = np.where(turns, before_block, np.arange(len(turns)))
    odd = turns.copy()
    while turns[origin].any():
        odd ^= odd[origin]
        origin = origin[origin]
    return origin, odd


def _settle(
    sequence: Integers,
    rank: Integers,
    begins: list[int],
    ends: list[int],
    facts: tuple[Integers, Integers, Integers, npt.NDArray[np.bool_]],
) -> None:
    """Put ties right one after the other, those that no other tie turns round into."""
    if not begins:
        return
    ties, earlier, origin, odd = (column.tolist() for column in facts)

    def key(block: int) -> tuple[int, int]:
        # Lists that were never served keep their starting order: the sort is stable.
        if ties[block] < 0:
            return 1, 0
        before = earlier[block]
        place = int(rank[origin[before]])
        return -ties[block], place if odd[before] else -place

    for begin, end in zip(begins, ends, strict=True):
        members = sequence[begin:end].tolist()
        members.sort(key=key)
        sequence[begin:end] = members
        rank[members] = np.arange(begin, end)


@np.errstate(over="ignore")  # an infinite sum is above every limit, as it should be
def segmented_cumsum(values: Floats, lengths: Integers) -> Floats:
    """Return the running sums of each list, added up one after the other.

    The order of adding matters: equal lists have equal sums to the last bit, so that their scores tie.

    Args:
        values: the lists, one behind the other.
        lengths: how long each list is.
    """
    sums = np.empty_like(values)
    begins = np.cumsum(lengths) - lengths
    short = lengths <= _SHORT
    for begin, length in zip(begins[~short].tolist(), lengths[~short].tolist(), strict=True):
        np.cumsum(values[begin : begin + length], out=sums[begin : begin + length])
    widths = np.left_shift(1, np.ceil(np.log2(np.maximum(lengths, 1))).astype(np.int64))
    for width in np.unique(widths[short & (lengths > 0)]).tolist():
        those = np.flatnonzero(short & (widths == width) & (lengths > 0))
        at = begins[those][:, None] + np.arange(width)
        valid = np.arange(width) < lengths[those][:, None]
        table = np.where(valid, values[np.where(valid, at, 0)], 0.0)
        sums[at[valid]] = np.cumsum(table, axis=1)[valid]
    return sums
