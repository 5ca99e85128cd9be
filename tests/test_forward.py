"""The batched forward pass: batched requests get what they get alone."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from toy_model import ToyModel, prompt

from executor.sampling.forward import aligned, evaluate, together
from executor.steps import Eval, Inputs


class Mixing(ToyModel):
    """A model that looks at everything it is given, across tokens by attention as a U-Net does."""

    def denoise(self, x: Tensor, sigma: Tensor, inputs: Inputs) -> Tensor:
        self.shapes.append(tuple(x.shape))
        query = x.flatten(2).transpose(1, 2)  # (B, h·w, C)
        seen = scaled_dot_product_attention(query, inputs.tokens, inputs.tokens)
        out = x / (1 + sigma.reshape(-1, 1, 1, 1)) + seen.transpose(1, 2).reshape(x.shape)
        if inputs.vector is not None:
            out = out + inputs.vector.mean(dim=1).reshape(-1, 1, 1, 1)
        return out if inputs.concat is None else out * inputs.concat


def request(
    model: ToyModel,
    seed: int,
    rows: int,
    tokens: int,
    *,
    vector: bool = False,
    concat: bool = False,
) -> Eval:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    inputs = Inputs(
        random(rows, tokens, 4),
        random(rows, 5) if vector else None,
        random(rows, 1, 6, 6) if concat else None,
    )
    return Eval(model, random(rows, 4, 6, 6), torch.arange(1.0, rows + 1) * seed, inputs)


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("concat", [False, True])
def test_a_batch_gives_what_its_parts_give_alone(vector: bool, concat: bool):
    model = Mixing()
    requests = [
        request(model, seed, rows, tokens, vector=vector, concat=concat)
        for seed, rows, tokens in ((1, 2, 7), (2, 1, 14), (3, 3, 7), (4, 1, 21))
    ]
    answers = evaluate(requests)
    assert len(model.shapes) == 2  # 7, 14 and 7 fit together; with 21 it would be 42, six times 7
    for asked, answer in zip(requests, answers, strict=True):
        assert answer.shape == asked.x.shape
        # 1e-5: sums over repeated tokens round differently.
        torch.testing.assert_close(answer, evaluate([asked])[0], rtol=0, atol=1e-5)


def test_only_requests_with_equal_keys_are_taken():
    model = ToyModel()
    other = Eval(model, torch.zeros(1, 4, 2, 2), torch.ones(1), Inputs(torch.zeros(1, 7, 4)))
    with pytest.raises(AssertionError, match="equal keys"):
        evaluate([request(model, 1, 1, 7), other])


def test_repeating_tokens_leaves_attention_unchanged():
    query, tokens = torch.randn(1, 5, 4), torch.randn(1, 3, 4)
    long = aligned([tokens, torch.zeros(1, 6, 4)])[:1]
    assert long.shape == (1, 6, 4)
    once = scaled_dot_product_attention(query, tokens, tokens)
    torch.testing.assert_close(scaled_dot_product_attention(query, long, long), once)


@pytest.mark.parametrize(
    ("lengths", "groups"),
    [
        ([77], [[0]]),
        ([77, 77, 77], [[0, 1, 2]]),
        ([77, 154, 77], [[0, 1, 2]]),
        ([154, 231, 77], [[0, 1], [2]]),  # 462 is 3 × 154, but 6 × 77
        ([77, 385], [[0], [1]]),  # five repeats cost more than another pass
    ],
)
def test_prompts_share_a_pass_while_few_repeats_align_them(
    lengths: list[int], groups: list[list[int]]
):
    assert together(lengths) == groups


def test_answers_do_not_keep_a_graph_and_inputs_are_left_alone():
    model = Mixing()
    asked = request(model, 1, 2, 7)
    asked.x.requires_grad_()
    versions = asked.x._version, asked.inputs.tokens._version
    (answer,) = evaluate([asked])
    assert not answer.requires_grad
    assert (asked.x._version, asked.inputs.tokens._version) == versions


def test_the_toy_model_is_exact_for_its_data():
    # With no noise the latent is its own estimate; with endless noise the prompt is.
    model, x = ToyModel(), torch.randn(1, 4, 2, 2)
    tokens = Inputs(prompt(3.0).tokens)
    torch.testing.assert_close(model.denoise(x, torch.zeros(1), tokens), x)
    far = model.denoise(x, torch.full((1,), 1e4), tokens)
    torch.testing.assert_close(far, torch.full_like(x, 3.0))
