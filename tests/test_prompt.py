"""Prompts are read as ComfyUI reads them: weights, escapes, embeddings, chunks."""

import random
from itertools import chain

import pytest

from executor.errors import InputError, PathError
from executor.models.prompt import BRACKET_WEIGHT, Token, chunks, groups, spans


def read(text: str) -> list[tuple[str, float]]:
    return [(span.text, round(span.weight, 6)) for span in spans(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red fox", [("a red fox", 1)]),
        ("", []),
        ("a (red) fox", [("a ", 1), ("red", 1.1), (" fox", 1)]),
        ("((red))", [("red", 1.21)]),
        ("(red:1.4) fox", [("red", 1.4), (" fox", 1)]),
        ("((red:1.4))", [("red", 1.4)]),  # a number is absolute, whatever surrounds it
        ("(a (b:0.5) c)", [("a ", 1.1), ("b", 0.5), (" c", 1.1)]),
        ("(a (b) c:2)", [("a ", 2), ("b", 2.2), (" c", 2)]),
        ("(red: 1.4 )", [("red", 1.4)]),
        ("(red:-1)", [("red", -1)]),
        ("(red:0)", [("red", 0)]),
        ("(red:1e-1)", [("red", 0.1)]),
        ("(a:b:1.5)", [("a:b", 1.5)]),
        ("(time 12:30)", [("time 12", 30)]),
        ("(red:very)", [("red:very", 1.1)]),
        ("(red:)", [("red:", 1.1)]),
        ("(:1.5)", [(":1.5", 1.1)]),
        ("(red:nan)", [("red:nan", 1.1)]),
        ("(red:inf)", [("red:inf", 1.1)]),
        ("()", []),
        ("a () b", [("a ", 1), (" b", 1)]),
        ("[red] {fox}", [("[red] {fox}", 1)]),
        (r"\(photo\)", [("(photo)", 1)]),
        (r"(a \(b\):1.5)", [("a (b)", 1.5)]),
        (r"a\b", [(r"a\b", 1)]),
        # brackets that match nothing
        ("a (b", [("a ", 1), ("(b", 1)]),
        ("a) b", [("a) b", 1)]),
        (") (b:2)", [(") (b:2)", 1)]),
        (") ((b:2)", [(") (", 1), ("b", 2)]),
        ("(a (b)", [("a ", 1.1), ("(b", 1.1)]),
        ("a) (b) (c)", [("a) (b) (c)", 1)]),
    ],
)
def test_a_prompt_is_read_as_comfyui_reads_it(text: str, expected) -> None:
    assert read(text) == expected


def test_no_character_of_a_prompt_without_numbers_is_lost() -> None:
    source = random.Random(0)
    for _ in range(300):
        text = "".join(source.choice("ab ,()") for _ in range(source.randint(0, 20)))
        kept = "".join(span.text for span in spans(text))
        letters = str.maketrans("", "", "()")
        assert kept.translate(letters) == text.translate(letters)


def test_balanced_brackets_multiply() -> None:
    for depth in range(20):
        (span,) = spans("(" * depth + "a" + ")" * depth)
        assert span.text == "a"
        assert span.weight == pytest.approx(BRACKET_WEIGHT**depth)


def test_brackets_nested_beyond_sense_are_refused() -> None:
    with pytest.raises(InputError, match="100 deep"):
        spans("(" * 5000 + "a" + ")" * 5000)


def test_a_long_prompt_of_open_brackets_is_read_in_linear_time() -> None:
    assert len(spans("(" * 200_000)) == 1


def words(text: str) -> list[int]:
    """A tokenizer for which a word is its length."""
    return [len(word) for word in text.split()]


KNOWN = {"cat": ["c1", "c2"], "dir/dog": ["d"], "comma,": ["k"]}


def find(name: str) -> list[str]:
    if name not in KNOWN:
        raise PathError(f"no {name!r}")
    return KNOWN[name]


def values(text: str) -> list[list[int | str]]:
    return [[token.value for token in group] for group in groups(text, words, find)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("embedding:cat", [["c1", "c2"]]),
        ("a embedding:cat bb", [[1], ["c1", "c2"], [2]]),
        ("a\nembedding:cat", [[1], ["c1", "c2"]]),
        ("a embedding:cat, bb", [[1], ["c1", "c2"], [1, 2]]),
        ("embedding:cat embedding:dir/dog", [["c1", "c2"], ["d"]]),
        ("embedding: cat", [["c1", "c2"]]),
        ("embedding:comma,", [["k"]]),
        ("a,embedding:cat", [[15]]),  # not after a space: words like others
    ],
)
def test_an_embedding_stands_for_its_vectors(text: str, expected) -> None:
    assert values(text) == expected


def test_an_embedding_has_the_weight_of_its_brackets() -> None:
    ((first, second),) = groups("(embedding:cat:1.3)", words, find)
    assert (first, second) == (Token("c1", 1.3), Token("c2", 1.3))


@pytest.mark.parametrize("text", ["embedding:bird", "a embedding:bird, b", "embedding:"])
def test_an_embedding_that_is_not_there_is_an_error(text: str) -> None:
    with pytest.raises(PathError):
        groups(text, words, find)


def cut(sizes: list[int], length: int = 12) -> list[list[int | str]]:
    """The values in each chunk of groups of such sizes, numbered through from 1; 0 pads."""
    number = iter(range(1, 1000))
    made: list[list[Token[str]]] = [[Token(next(number)) for _ in range(size)] for size in sizes]
    result = chunks(made, start=-1, end=-2, pad=0, length=length)
    assert all(len(chunk) == length for chunk in result)
    plain = [[token.value for token in chunk] for chunk in result]
    assert all(chunk[0] == -1 for chunk in plain)
    return [chunk[1 : chunk.index(-2)] for chunk in plain]


def test_no_groups_are_one_empty_chunk() -> None:
    assert cut([]) == [[]]
    ((start, end, *pads),) = chunks([], start=5, end=6, pad=7, length=77)
    assert (start.value, end.value) == (5, 6)
    assert {pad.value for pad in pads} == {7}
    assert len(pads) == 75


def test_chunks_keep_all_tokens_in_order() -> None:
    source = random.Random(1)
    for _ in range(200):
        sizes = [source.randint(1, 30) for _ in range(source.randint(0, 8))]
        assert list(chain(*cut(sizes))) == list(range(1, sum(sizes) + 1))


def test_a_full_chunk_is_not_followed_by_an_empty_one() -> None:
    assert [len(chunk) for chunk in cut([10])] == [10]
    assert [len(chunk) for chunk in cut([5, 5])] == [5 + 5]
    assert [len(chunk) for chunk in cut([20])] == [10, 10]


def test_a_short_group_is_kept_together_and_a_long_one_cut() -> None:
    assert [len(chunk) for chunk in cut([6, 7])] == [6, 7]
    assert [len(chunk) for chunk in cut([6, 8])] == [10, 4]
