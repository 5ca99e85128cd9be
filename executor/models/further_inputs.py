"""What some U-Nets are given beside the noisy latent and the prompt: sizes, masks, pictures.

A vector joins the timestep's embedding (SDXL's pooled prompt and sizes), further channels stand
beside those of the latent (inpainting, InstructPix2Pix). Where a workflow says nothing, the values
are ComfyUI's.
"""

from collections.abc import Mapping, Sequence

import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor
from torch.nn.functional import interpolate

from executor.errors import InputError
from executor.models.families import Family, VectorSays
from executor.models.unclip import MERGED, PictureNoise
from executor.ports import Canvas, Cond, PictureSize

EMBEDDED = 256
"""Numbers that each size is spread over, as a timestep is."""

NUMBERS: Mapping[VectorSays, int] = {"sizes": 6, "score": 5}
"""How many sizes, or sizes and a score, stand behind the pooled prompt."""

_PIXELS = 8  # of the picture, for one of the latent
_GREY = (0.8223, -0.6876, 0.6364, 0.1380)  # mid grey in the scaled latent space of SD 1.x


def vector(cond: Cond, family: Family, canvas: Canvas, *, is_negative: bool) -> Tensor:
    """The pooled prompt, and the sizes that SDXL was trained with (Podell et al. 2023, §2.2).

    (B, P + 6 · 256), or + 5 · 256 for the refiner, which is told an aesthetic score in place of the
    size that is wanted. Encoded pictures, if there are any, take the pooled prompt's place (what
    SDXL's authors call revision). Raises InputError for a prompt without pooled output.
    """
    height, width = (_PIXELS * side for side in canvas.clean.shape[-2:])
    size = cond.size or PictureSize(height, width)
    numbers: list[float] = [size.height, size.width, size.crop_y, size.crop_x]
    if family.vector_says == "score":
        usual = 2.5 if is_negative else 6.0
        numbers.append(usual if cond.aesthetic_score is None else cond.aesthetic_score)
    else:
        numbers.append(size.height if size.target_height is None else size.target_height)
        numbers.append(size.width if size.target_width is None else size.target_width)
    if cond.pictures:
        encoded = cond.pictures[0].picture.embeds.shape[-1]
        told = PictureNoise(encoded).vector(cond.pictures, canvas.seed, merged=0.0)
        pooled = _rows(told[:, :encoded], canvas.clean)
    elif cond.pooled is None:
        raise InputError(
            f"the prompt has no pooled output, which {family.title} needs; encode it with the text "
            "encoders of the model"
        )
    else:
        pooled = _rows(cond.pooled, canvas.clean)
    return torch.cat((pooled, _embedded(numbers).to(pooled).expand(len(pooled), -1)), dim=1)


def pictures(cond: Cond, noise: PictureNoise, canvas: Canvas) -> Tensor:
    """What unCLIP's U-Net is told: an encoded picture and how noisy it is (B, 2P); or nothing.

    Raises InputError for pictures that another vision model has encoded.
    """
    if not cond.pictures:
        return canvas.clean.new_zeros(len(canvas.clean), 2 * noise.width)
    return _rows(noise.vector(cond.pictures, canvas.seed, merged=MERGED), canvas.clean)


def _embedded(numbers: Sequence[float]) -> Tensor:
    """Each number as a timestep's sinusoids (Vaswani et al. 2017, §3.5), in one row."""
    waves = get_timestep_embedding(
        torch.tensor(numbers), EMBEDDED, flip_sin_to_cos=True, downscale_freq_shift=0
    )
    return waves.reshape(1, -1)


def masked_picture(cond: Cond, scale: float, canvas: Canvas) -> Tensor:
    """What a 9-channel U-Net sees beside the latent: a mask, the picture around it (B, 5, h, w).

    Rombach et al. (2022), §4.5. The picture is the prompt's (``InpaintModelConditioning``), else
    the latent that sampling starts from; without any mask all is to be painted, on grey.
    """
    clean = canvas.clean
    mask = canvas.mask if cond.concat_mask is None else cond.concat_mask[:, None]
    if mask is None:
        grey = torch.tensor(_GREY[: clean.shape[1]]).to(clean)[None, :, None, None]
        return torch.cat((torch.ones_like(clean[:, :1]), grey.expand_as(clean)), dim=1)
    picture = clean if cond.concat is None else _fitted(cond.concat * scale, clean)
    return torch.cat((_fitted(mask, clean).round(), picture), dim=1)


def edited_picture(cond: Cond, scale: float, canvas: Canvas) -> Tensor:
    """What InstructPix2Pix sees beside the latent: the picture to edit (B, 4, h, w).

    Brooks et al. (2023), §3.2; nothing where the prompt has none.
    """
    if cond.concat is None:
        return torch.zeros_like(canvas.clean)
    return _fitted(cond.concat * scale, canvas.clean)


def _fitted(rows: Tensor, like: Tensor) -> Tensor:
    """Rows (B', C, h', w') of the batch and size of ``like``, on its device; too long sides cut."""
    height, width = like.shape[-2:]
    if rows.shape[-2:] != like.shape[-2:]:
        rows = interpolate(_cropped(rows, width / height), (height, width), mode="bilinear")
    return _spread(rows, len(like)).to(like.device, torch.float32)


def _spread(rows: Tensor, count: int) -> Tensor:
    """So many rows: each as often as the others, next to itself; or some, from first to last."""
    given = len(rows)
    if count <= 1 or count == given:
        return rows[:count]
    if count < given:
        places = [min(round(at * (given - 1) / (count - 1)), given - 1) for at in range(count)]
    else:
        places = [min(int((at + 0.5) * given / count), given - 1) for at in range(count)]
    return rows[places]


def _cropped(rows: Tensor, aspect: float) -> Tensor:
    """The middle of rows (B, C, h, w) that has this ratio of width to height."""
    height, width = rows.shape[-2:]
    cut_x = round((width - height * aspect) / 2) if width / height > aspect else 0
    cut_y = round((height - width / aspect) / 2) if width / height < aspect else 0
    return rows[..., cut_y : height - cut_y, cut_x : width - cut_x]


def _rows(rows: Tensor, like: Tensor) -> Tensor:
    """The rows again and again, as many as ``like`` has, on its device in float32."""
    turns = -(-len(like) // len(rows))
    repeated = rows.repeat(turns, *[1] * (rows.ndim - 1))[: len(like)]
    return repeated.to(like.device, torch.float32)
