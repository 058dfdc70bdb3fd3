"""The pure parts of examples/retain: cutting, naming and embedding a text depend on the text and on nothing else."""

from __future__ import annotations

import math

import pytest
from examples.retain.chunks import LEAST, MOST, cut_text, make_chunks
from examples.retain.embedding import DIMENSIONS, MODEL, embed_texts
from examples.retain.sources import read_installed
from hypothesis import given
from hypothesis import strategies as st

PARAGRAPHS = st.lists(st.text("ab \n\té", max_size=400) | st.text(max_size=50), max_size=30).map("\n\n".join)


@given(PARAGRAPHS)
def test_chunks_joined_are_the_text(body: str) -> None:
    assert "".join(cut_text(body)) == (body if body.strip() else "")


@given(PARAGRAPHS)
def test_no_chunk_is_empty_or_too_long(body: str) -> None:
    assert all(0 < len(piece) <= MOST + 1 for piece in cut_text(body))


@given(PARAGRAPHS)
def test_every_chunk_has_a_name_of_its_own_and_its_place(body: str) -> None:
    chunks = make_chunks(body, "m")
    assert len({(chunk.hash, chunk.nth) for chunk in chunks}) == len(chunks)
    assert [chunk.position for chunk in chunks] == list(range(len(chunks)))
    assert "".join(chunk.body for chunk in chunks) == "".join(cut_text(body))


def test_another_model_makes_other_chunks() -> None:
    assert {one.hash for one in make_chunks("text", "a")}.isdisjoint(one.hash for one in make_chunks("text", "b"))


@pytest.mark.parametrize("body", ["\n" * 5000, "x" * 5000, " " * 5000 + "a", "a\n\n" * 3000, "a b " * 3000])
def test_texts_that_no_author_wrote(body: str) -> None:
    assert "".join(cut_text(body)) == (body if body.strip() else "")
    assert all(len(piece) <= MOST + 1 for piece in cut_text(body))


def test_a_change_in_the_middle_leaves_most_chunks_as_they_were() -> None:
    """On real texts: what was cut before the change is the same, and what comes after it falls into step again."""
    kept: list[float] = []
    for document in read_installed():
        before = cut_text(document.body)
        if len(before) < 20:
            continue
        middle = len(document.body) // 2
        after = cut_text(f"{document.body[:middle]} changed {document.body[middle:]}")
        kept.append(len(set(before) & set(after)) / len(set(before)))
    assert len(kept) > 5
    assert sum(kept) / len(kept) > 0.8
    assert LEAST < MOST


def test_an_embedding_is_a_unit_vector_of_the_right_size() -> None:
    for vector in embed_texts(["Permission is hereby granted", "x", " ", "é\n\n\n"]):
        numbers = [float(number) for number in vector.strip("[]").split(",")]
        assert len(numbers) == DIMENSIONS
        assert math.isclose(sum(number * number for number in numbers), 1, abs_tol=1e-4)
    assert embed_texts([]) == []


def test_an_embedding_does_not_depend_on_its_company() -> None:
    text = "The software is provided as is"
    [alone] = embed_texts([text])
    crowd = embed_texts(["x", text, "Redistribution and use in source and binary forms " * 40])
    assert crowd[1] == alone


def test_meaning_is_near_to_meaning() -> None:
    question, near, far = (
        [float(number) for number in vector.strip("[]").split(",")]
        for vector in embed_texts(["no guarantee, no liability", "WARRANTY DISCLAIMER", "a list of file paths"])
    )

    def compare(one: list[float], other: list[float]) -> float:
        return sum(a * b for a, b in zip(one, other, strict=True))

    assert compare(question, near) > compare(question, far) + 0.1
    assert MODEL
