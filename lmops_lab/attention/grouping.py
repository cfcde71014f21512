"""Groups of whole demonstrations: never a half one, never one dropped."""

from collections.abc import Sequence

Tokens = Sequence[int]


def group_by_count(demonstrations: Sequence[Tokens], group_size: int) -> list[list[Tokens]]:
    """Cut the demonstrations, in order, into groups of `group_size`; the last group holds what is left.

    Every demonstration lands in exactly one group, so k demonstrations stay k demonstrations.

    Raises:
        ValueError: no demonstrations, an empty one, or a group size below 1.
    """
    _check(demonstrations)
    if group_size < 1:
        raise ValueError(f"group_size is {group_size}; a group holds at least 1 demonstration")
    return [list(demonstrations[i : i + group_size]) for i in range(0, len(demonstrations), group_size)]


def group_by_tokens(demonstrations: Sequence[Tokens], token_budget: int) -> list[list[Tokens]]:
    """Fill groups, in order, with whole demonstrations up to `token_budget` tokens each.

    Raises:
        ValueError: no demonstrations, an empty one, or one that is longer than the budget (it is named).
    """
    _check(demonstrations)
    groups: list[list[Tokens]] = []
    room = 0
    for index, tokens in enumerate(demonstrations):
        if len(tokens) > token_budget:
            raise ValueError(
                f"demonstration {index} has {len(tokens)} tokens but a group holds {token_budget}; "
                "raise token_budget or shorten this demonstration"
            )
        if not groups or len(tokens) > room:
            groups.append([])
            room = token_budget
        groups[-1].append(tokens)
        room -= len(tokens)
    return groups


def _check(demonstrations: Sequence[Tokens]) -> None:
    if not demonstrations:
        raise ValueError("there are no demonstrations; give at least one, or score without a context (zero-shot)")
    for index, tokens in enumerate(demonstrations):
        if len(tokens) == 0:
            raise ValueError(f"demonstration {index} has no tokens; remove it")
