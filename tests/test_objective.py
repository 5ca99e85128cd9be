"""What a file's network predicts: who is believed first, and what is not run."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from executor.errors import ModelFileError
from executor.models.detect import inspect
from executor.models.header import read_header
from executor.models.objective import numbers
from executor.ports import Objective
from executor.testing import write_tiny_checkpoint, write_tiny_folder

MARK = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
UNET = "model.diffusion_model."
NONE = torch.empty(0)


def sd2(path: Path, spread: float, **more: Tensor) -> Path:
    """What tells a Stable Diffusion 2 file, with the norm that training to predict v makes larger.

    Of that norm's bias the standard deviation is ``spread``, without Bessel's correction.
    """
    tensors = {
        UNET + "input_blocks.0.0.weight": torch.zeros(8, 4, 3, 3),
        "cond_stage_model.model.token_embedding.weight": torch.zeros(9, 8),
        MARK: torch.tensor([1.0, -1.0, 1.0, -1.0]) * spread,
    }
    save_file({**tensors, **more}, path)
    return path


def sdxl(path: Path, metadata: dict[str, str] | None = None, **marks: Tensor) -> Path:
    """What tells an SDXL file, with marks beside it."""
    tensors = {
        UNET + "input_blocks.0.0.weight": torch.zeros(8, 4, 3, 3),
        UNET + "label_emb.0.0.weight": torch.zeros(8, 8),
        "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight": NONE,
        "conditioner.embedders.1.model.token_embedding.weight": NONE,
    }
    save_file({**tensors, **marks}, path, metadata)
    return path


@pytest.mark.parametrize(
    ("spread", "prediction"), [(0.08, "epsilon"), (0.1, "v"), (0.0, "epsilon")]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_sd2_files_that_predict_v_are_told_by_a_norm(
    tmp_path: Path, spread: float, prediction: str, dtype: torch.dtype
) -> None:
    path = sd2(tmp_path / "x.safetensors", 0)
    bias = (torch.tensor([1.0, -1.0, 1.0, -1.0]) * spread).to(dtype)
    assert inspect(sd2(path, 0, **{MARK: bias})).prediction == prediction


def test_a_whole_tiny_file_that_predicts_v_is_told_by_it_too(tmp_path: Path) -> None:
    path, deep = tmp_path / "x.safetensors", {"layers_per_block": 2}
    weights = write_tiny_checkpoint(path, of="sd2", unet=deep)
    assert inspect(path).prediction == "epsilon"
    larger = {MARK: weights[MARK] * 4}  # the tiny files' norms have biases of 0.05
    write_tiny_checkpoint(path, of="sd2", unet=deep, extra=larger)
    assert inspect(path).prediction == "v"


def test_the_norm_says_nothing_about_other_families(tmp_path: Path) -> None:
    path, deep = tmp_path / "x.safetensors", {"layers_per_block": 2}
    for family in ("sd1", "sd2-inpaint"):
        weights = write_tiny_checkpoint(path, of=family, unet=deep)
        write_tiny_checkpoint(path, of=family, unet=deep, extra={MARK: weights[MARK] * 4})
        assert inspect(path).prediction == "epsilon"


def test_marks_tell_of_v_and_of_zero_terminal_snr(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    assert inspect(sdxl(path)).objective == Objective()
    assert inspect(sdxl(path, v_pred=NONE)).objective == Objective("v")
    both = sdxl(path, v_pred=NONE, ztsnr=NONE)
    assert inspect(both).objective == Objective("v", has_zero_terminal_snr=True)
    assert inspect(sdxl(path, ztsnr=NONE)).objective == Objective()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_cosxl_tells_its_range_of_noise(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "x.safetensors"
    largest = {"edm_vpred.sigma_max": torch.tensor(120.0, dtype=dtype)}
    assert inspect(sdxl(path, None, **largest)).objective == Objective("v", sigmas=(0.002, 120.0))
    least = {"edm_vpred.sigma_min": torch.tensor(0.25, dtype=dtype)}
    assert inspect(sdxl(path, None, **largest, **least)).objective == Objective(
        "v", sigmas=(0.25, 120.0)
    )


def test_playground_is_refused_by_name(tmp_path: Path) -> None:
    path = sdxl(tmp_path / "x.safetensors", edm_mean=torch.zeros(4), edm_std=torch.ones(4))
    with pytest.raises(ModelFileError, match=r"x\.safetensors is of Playground 2\.5's kind"):
        inspect(path)


def test_metadata_are_believed_before_marks_and_a_configuration_beside_the_file_first(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.safetensors"
    said = {"modelspec.prediction_type": "epsilon"}
    assert inspect(sdxl(path, said, v_pred=NONE)).prediction == "epsilon"
    beside = path.with_suffix(".yaml")
    beside.write_text('model:\n  params:\n    parameterization: "v"\n    beta_schedule: x\n')
    assert inspect(path).prediction == "v"
    beside.write_text("parameterization: eps # of noise\n")
    assert inspect(sdxl(path, v_pred=NONE)).prediction == "epsilon"


@pytest.mark.parametrize(
    "text", ["", "parameterization: sideways\n", "\0\0", "# parameterization: v"]
)
def test_a_configuration_that_says_nothing_is_no_matter(tmp_path: Path, text: str) -> None:
    path = sdxl(tmp_path / "x.safetensors", v_pred=NONE)
    path.with_suffix(".yaml").write_text(text)
    assert inspect(path).prediction == "v"


def test_a_folder_says_it_in_its_schedulers_configuration(tmp_path: Path) -> None:
    said = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    write_tiny_folder(tmp_path / "x", of="sd2", scheduler=said)
    assert inspect(tmp_path / "x").objective == Objective("v", has_zero_terminal_snr=True)
    write_tiny_folder(tmp_path / "y", scheduler={"prediction_type": "sample"})
    assert inspect(tmp_path / "y").objective == Objective("x0")
    write_tiny_folder(tmp_path / "z", scheduler={"prediction_type": ["nonsense"]})
    assert inspect(tmp_path / "z").objective == Objective()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_numbers_are_read_as_torch_reads_them(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {
        "a": torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).to(dtype),
        "b": torch.tensor(-0.25, dtype=dtype),
    }
    save_file(tensors, tmp_path / "x.safetensors")
    header = read_header(tmp_path / "x.safetensors")
    for name, tensor in tensors.items():
        assert numbers(header, name) == tensor.float().flatten().tolist()


@pytest.mark.parametrize("tensor", [torch.zeros(4, dtype=torch.int32), NONE, torch.zeros(2**17)])
def test_what_cannot_be_such_numbers_is_refused(tmp_path: Path, tensor: Tensor) -> None:
    save_file({"a": tensor}, tmp_path / "x.safetensors")
    with pytest.raises(ModelFileError, match=r"x\.safetensors: tensor a is .*download"):
        numbers(read_header(tmp_path / "x.safetensors"), "a")
