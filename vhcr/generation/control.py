"""The paper's control tasks: conversations from z_conv alone, fixed (Table 7) or interpolated (Table 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vhcr.batch import Ints, pack
from vhcr.errors import ParameterError
from vhcr.generation.respond import Continuation, Responder

Way = Literal["linear", "spherical"]


def conversations(
    responder: Responder,
    count: int,
    num_turns: int,
    *,
    samples: int = 1,
    opening: Sequence[int] | None = None,
) -> Continuation:
    """``samples`` conversations from each of ``count`` draws of z_conv from its prior (Eq. 14-16, Table 7).

    Whole conversations out of nothing, in the order of ``from_z_conv``; draw ``i`` depends on the noise and
    ``i`` alone. A model without z_conv has nothing that the samples of a draw share.

    Raises:
        ParameterError: the model cannot begin a conversation and has no opening, or a number is not positive.
    """
    if count < 1:
        raise ParameterError(f"{count} conversations were asked for; at least 1 can be generated")
    z_conv = prior_z_conv(responder, count) if responder.model.z_conv_size else None
    return responder.respond([_context(opening)] * count, num_turns, samples=samples, z_conv=z_conv)


def from_z_conv(
    responder: Responder,
    z_conv: Tensor,
    num_turns: int,
    *,
    samples: int = 1,
    same_noise: bool = False,
    opening: Sequence[int] | None = None,
) -> Continuation:
    """Whole conversations from each row of ``z_conv`` [points, latent] (Tables 6 and 7).

    Conversation ``i * samples + k`` is the ``k``-th of row ``i``: the same z_conv with fresh z_utt. With
    ``same_noise`` all rows share the noise of z_utt and of words, so that what differs between them comes
    from z_conv alone. An ``opening`` utterance (token ids ending with EOS) is put before what is generated; a
    model of the reading ``release`` needs one, since it never learnt to say the first.

    Raises:
        ParameterError: the model has no z_conv, or needs an opening and has none, or a number is not
            positive.
    """
    names = [0] * len(z_conv) if same_noise else range(len(z_conv))
    contexts = [_context(opening)] * len(names)
    return responder.respond(contexts, num_turns, index=names, samples=samples, z_conv=z_conv)


def _context(opening: Sequence[int] | None) -> list[Ints]:
    """What comes before a conversation: nothing, or the opening utterance."""
    return [] if opening is None else [np.asarray(opening)]


def prior_z_conv(responder: Responder, count: int, first: int = 0) -> Tensor:
    """z_conv ~ N(0, I) (Eq. 16), [count, latent]: draws ``first``, ``first`` + 1, ... of the noise.

    Raises:
        ParameterError: the model has no z_conv.
    """
    if responder.model.z_conv_size == 0:
        raise ParameterError(f"{responder.model.system.architecture!r} has no z_conv to draw")
    index = torch.arange(first, first + count, device=responder.device)
    return responder.z_conv_noise(index, torch.zeros_like(index))


def posterior_means(responder: Responder, told: Sequence[Sequence[Ints]]) -> Tensor:
    """The mean of q(z_conv | conversation) for each conversation, [conversations, latent].

    Raises:
        ParameterError: the model has no z_conv.
    """
    if responder.model.z_conv_size == 0:
        raise ParameterError(f"{responder.model.system.architecture!r} has no z_conv to infer")
    params = responder.params.model_copy(update={"z_conv_from": "posterior"})
    listener = replace(responder, params=params, latent_scale=0.0)
    means = [listener.read(pack([turns], [0])).z_conv for turns in told]
    return torch.cat([mean for mean in means if mean is not None])


def interpolate(start: Tensor, end: Tensor, num_points: int, path: Way = "linear") -> Tensor:
    """Points at equal steps from ``start`` to ``end``, both [latent] and included: [points, latent].

    ``linear`` cuts through the middle, where a Gaussian of many dimensions has next to no mass: halfway
    between two draws the norm is smaller by about sqrt(2). ``spherical`` turns the direction at constant
    speed along the great circle (Shoemake, 1985) while the norm changes linearly.

    Raises:
        ParameterError: fewer than 2 points; or spherical between opposite directions, where every great
            circle is as short as the next, or from the origin, which has no direction.
    """
    if num_points < 2:
        raise ParameterError(f"{num_points} points were asked for; both ends alone make 2")
    at = torch.linspace(0.0, 1.0, num_points, dtype=torch.float64, device=start.device).unsqueeze(1)
    a, b = start.double(), end.double()
    if path == "linear":
        points = (1.0 - at) * a + at * b
    else:
        norm_a, norm_b = a.norm(), b.norm()
        if float(norm_a) == 0.0 or float(norm_b) == 0.0:
            raise ParameterError("the origin has no direction: no spherical path leads from or to it")
        # Kahan's angle; the arc cosine would lose half its digits near 0 and pi.
        u, v = a / norm_a, b / norm_b
        angle = 2.0 * torch.atan2((u - v).norm(), (u + v).norm())
        if float(torch.sin(angle)) < 1e-12 and float(angle) > 1.0:
            raise ParameterError(
                "the two ends point in opposite directions: the spherical path is not unique"
            )
        if float(angle) < 1e-12:
            direction = u.expand(num_points, -1)
        else:
            direction = (torch.sin((1.0 - at) * angle) * u + torch.sin(at * angle) * v) / torch.sin(angle)
        points = ((1.0 - at) * norm_a + at * norm_b) * direction
    # The ends themselves, to the bit.
    points[0], points[-1] = a, b
    return points.to(start.dtype)
