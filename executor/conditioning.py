"""Arithmetic on encoded prompts: join them, mix them, blank them.

Nothing here knows a text encoder or writes to its arguments. Of the second of two conditionings
only the first prompt counts, as in ComfyUI.
"""

from dataclasses import replace

import torch

from executor.errors import InputError
from executor.ports import Cond, Conditioning


def concatenated(first: Conditioning, second: Conditioning) -> Conditioning:
    """Each prompt of ``first``, followed by the tokens of ``second``."""
    after = _only(second, first)
    return tuple(replace(cond, tokens=torch.cat((cond.tokens, after.tokens), 1)) for cond in first)


def averaged(first: Conditioning, second: Conditioning, strength: float) -> Conditioning:
    """``strength`` parts of each prompt of ``first``, the rest of ``second``.

    ``second`` is cut, or filled with zeros, to the length of the first.
    """
    other = _only(second, first)

    def mixed(cond: Cond) -> Cond:
        length = cond.tokens.shape[1]
        rest = other.tokens[:, :length]
        filled = torch.nn.functional.pad(rest, (0, 0, 0, length - rest.shape[1]))
        pooled = cond.pooled
        if other.pooled is not None:
            mine = other.pooled if pooled is None else pooled
            pooled = mine * strength + other.pooled * (1 - strength)
        tokens = cond.tokens * strength + filled * (1 - strength)
        return replace(cond, tokens=tokens, pooled=pooled)

    return tuple(mixed(cond) for cond in first)


def zeroed(conditioning: Conditioning) -> Conditioning:
    """The same prompts, saying nothing: all tokens and pooled outputs are zero."""
    return tuple(
        replace(
            cond,
            tokens=torch.zeros_like(cond.tokens),
            pooled=None if cond.pooled is None else torch.zeros_like(cond.pooled),
        )
        for cond in conditioning
    )


def _only(second: Conditioning, first: Conditioning) -> Cond:
    """The prompt of ``second`` that counts, if it can stand beside those of ``first``."""
    if not second:
        raise InputError("conditioning_from holds no prompt; give it at least one")
    widths = {cond.tokens.shape[-1] for cond in (*first, second[0])}
    if len(widths) > 1:
        raise InputError(
            f"the prompts are encoded {' and '.join(map(str, sorted(widths)))} wide, so by text "
            "encoders of different models; encode both with the same one"
        )
    return second[0]
