"""The nodes that come with Weft: declarations only, about fifteen lines each.

Importing this package registers them all; it loads neither torch nor diffusers. What a node
computes lies under ``executor``.
"""

from nodes.conditioning import (
    CLIPSetLastLayer,
    CLIPTextEncode,
    ConditioningAverage,
    ConditioningCombine,
    ConditioningConcat,
    ConditioningSetArea,
    ConditioningSetMask,
    ConditioningSetTimestepRange,
    ConditioningZeroOut,
)
from nodes.image import (
    EmptyImage,
    ImageBatch,
    ImageCompositeMasked,
    ImageCrop,
    ImageInvert,
    ImagePadForOutpaint,
    ImageScale,
    ImageScaleBy,
    ImageScaleToTotalPixels,
    LoadImage,
    LoadImageMask,
)
from nodes.latent import (
    EmptyLatent,
    LatentComposite,
    LatentFromBatch,
    LatentUpscale,
    LatentUpscaleBy,
    LoadLatent,
    RepeatLatentBatch,
    SaveLatent,
    SetLatentNoiseMask,
    VAEDecode,
    VAEEncode,
    VAEEncodeForInpaint,
)
from nodes.loaders import (
    CheckpointLoader,
    VAELoader,
)
from nodes.mask import (
    FeatherMask,
    GrowMask,
    ImageToMask,
    InvertMask,
    Mask,
    MaskComposite,
    MaskToImage,
    SolidMask,
    ThresholdMask,
)
from nodes.output import (
    PreviewImage,
    SaveImage,
)
from nodes.sampling import (
    KSampler,
    KSamplerAdvanced,
)

__all__ = [
    "CLIPSetLastLayer",
    "CLIPTextEncode",
    "CheckpointLoader",
    "ConditioningAverage",
    "ConditioningCombine",
    "ConditioningConcat",
    "ConditioningSetArea",
    "ConditioningSetMask",
    "ConditioningSetTimestepRange",
    "ConditioningZeroOut",
    "EmptyImage",
    "EmptyLatent",
    "FeatherMask",
    "GrowMask",
    "ImageBatch",
    "ImageCompositeMasked",
    "ImageCrop",
    "ImageInvert",
    "ImagePadForOutpaint",
    "ImageScale",
    "ImageScaleBy",
    "ImageScaleToTotalPixels",
    "ImageToMask",
    "InvertMask",
    "KSampler",
    "KSamplerAdvanced",
    "LatentComposite",
    "LatentFromBatch",
    "LatentUpscale",
    "LatentUpscaleBy",
    "LoadImage",
    "LoadImageMask",
    "LoadLatent",
    "Mask",
    "MaskComposite",
    "MaskToImage",
    "PreviewImage",
    "RepeatLatentBatch",
    "SaveImage",
    "SaveLatent",
    "SetLatentNoiseMask",
    "SolidMask",
    "ThresholdMask",
    "VAEDecode",
    "VAEEncode",
    "VAEEncodeForInpaint",
    "VAELoader",
]
