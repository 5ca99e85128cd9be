"""Text encoders out of model files: of checkpoints, of diffusers folders, of files of their own."""

from collections.abc import Callable, Sequence

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from executor.devices import Devices
from executor.errors import ModelFileError
from executor.models import configs, tokenizer
from executor.models.clip_tower import ClipNetwork, ClipTower
from executor.models.families import Family, TextTower
from executor.models.model_file import ModelFile
from executor.models.part import Part
from executor.models.text import ClipText, FindEmbedding
from executor.models.text_place import TextPlace, text_place
from executor.models.weights import Weights
from executor.residency import Turn

_IN_FOLDERS = ("text_model.", "")


def load_text(
    file: ModelFile, family: Family, devices: Devices, find_embedding: FindEmbedding
) -> ClipText:
    """The text encoders of a checkpoint or diffusers folder."""
    towers = [
        ClipTower(load_weights(file, _place(file, rules), rules, devices), rules)
        for rules in family.text
    ]
    return clip_text(file, towers, find_embedding)


def clip_text(
    file: ModelFile, towers: Sequence[ClipTower], find_embedding: FindEmbedding
) -> ClipText:
    """Text encoders with the tokenizer beside a file. Raises ModelFileError if it does not fit."""
    words = tokenizer.beside(file.path)
    for tower in towers:
        known = tower.config.vocab_size
        if words.size > known:
            raise ModelFileError(
                f"the tokenizer beside {file.path.name} knows {words.size} tokens, "
                f"its text encoder {known}: they do not belong together"
            )
    return ClipText(tuple(towers), words, find_embedding)


def load_weights(
    file: ModelFile, place: TextPlace, rules: TextTower, devices: Devices
) -> Weights[ClipNetwork]:
    """One text encoder, with its projection if the family uses it and it is there."""
    shapes = place.shapes()
    part = Part("text encoder", place.header, place.stored)
    # SD 2 takes the last layer but one: diffusers leaves the last one and the projection out.
    is_cut = rules.has_final_norm and not place.has_projection
    kind: Callable[[CLIPTextConfig], ClipNetwork] = (
        CLIPTextModelWithProjection if rules.is_projected and not is_cut else CLIPTextModel
    )
    network = part.build(
        lambda: kind(
            CLIPTextConfig(
                **configs.text_config(shapes, rules, file.hints, is_open_clip=place.is_open_clip)
            )
        )
    )
    part.fill(network, devices, devices.text_dtype, turn=Turn.TEXT_ENCODER)
    weights = Weights(network)
    tower = ClipTower(weights, rules)
    positions = torch.arange(tower.length, device=devices.device)
    # a buffer that no file need hold, and that was built without storage
    tower.model.embeddings.register_buffer("position_ids", positions[None], persistent=False)
    return weights


def _place(file: ModelFile, tower: TextTower) -> TextPlace:
    """Where a checkpoint keeps a text encoder of its family."""
    if not file.is_folder:
        place = text_place(file.header, tower.prefixes)
        assert place is not None, "the family was told from it"
        return place
    header = file.headers[tower.folder]
    return text_place(header, _IN_FOLDERS) or TextPlace(header, "", is_open_clip=False)
