"""Workflows and processes for the tests of the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

Prompt = dict[str, dict[str, Any]]


def node(class_type: str, title: str = "", **inputs: Any) -> dict[str, Any]:
    meta = {"_meta": {"title": title}} if title else {}
    return {"class_type": class_type, "inputs": inputs, **meta}


def picture(**inputs: Any) -> Prompt:
    """An empty picture, saved: needs no model."""
    canvas: dict[str, Any] = {"width": 16, "height": 16, "batch_size": 1, "color": 0}
    return {
        "1": node("EmptyImage", **canvas | inputs),
        "2": node("SaveImage", images=["1", 0], filename_prefix="red"),
    }


def sampled(**inputs: Any) -> Prompt:
    """Text to picture with the shipped model, with changed inputs of the sampler."""
    sampler: dict[str, Any] = {
        "seed": 1,
        "steps": 2,
        "cfg": 4.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "denoise": 1.0,
        "model": ["4", 0],
        "positive": ["6", 0],
        "negative": ["7", 0],
        "latent_image": ["5", 0],
    }
    return {
        "3": node("KSampler", **sampler | inputs),
        "4": node("CheckpointLoaderSimple", ckpt_name="weft-tiny.safetensors"),
        "5": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "6": node("CLIPTextEncode", "Positive", text="a red circle", clip=["4", 1]),
        "7": node("CLIPTextEncode", "Negative", text="", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", images=["8", 0], filename_prefix="circle"),
    }


def written(content: Any, name: str = "workflow.json") -> str:
    Path(name).write_text(content if isinstance(content, str) else json.dumps(content))
    return name


def in_a_process(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "executor", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
        capture_output=True,
        text=True,
    )
