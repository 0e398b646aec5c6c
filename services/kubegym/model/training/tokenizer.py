"""The model's tokenizer: byte-level BPE whose only merges of digits are the hundred pairs 00..99."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from kubegym.model.training.chat_format import SPECIAL_TOKENS, TOOL_MARKS, chat_template, render
from kubegym.model.training.problems import Problem, draw

CONTEXT_LENGTH = 1024
IGNORED = -100
"""Label of tokens that are not trained on (torch's ``ignore_index``)."""

_VOCABULARY_LIMIT = 640
_CORPUS_SIZE = 4000
_DIGIT_PAIRS = [f"{pair:02d}" for pair in range(100)]


def build_tokenizer() -> PreTrainedTokenizerFast:
    r"""Learn the tokenizer from generated problems; the same one every time.

    Merges are learned with digits cut into pairs, so that none joins more than two digits or a digit to anything else:
    numbers up to 99 are one token, which is what makes a model this small able to calculate. The saved pre-tokenizer
    is plain GPT-2 ``ByteLevel``, because llama.cpp has that one and has none for ``\d{1,2}``.
    """
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\d{1,2}"), "isolated"), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY_LIMIT - len(TOOL_MARKS),
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Pairs are repeated until every one of them is frequent enough to be merged.
    tokenizer.train_from_iterator([*_corpus(), *[" ".join(_DIGIT_PAIRS)] * 50], trainer)
    tokenizer.pre_tokenizer = byte_level
    if not all(len(tokenizer.encode(pair).ids) == 1 for pair in _DIGIT_PAIRS):
        raise RuntimeError("the tokenizer has not learned all pairs of digits")
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in TOOL_MARKS])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = chat_template()
    _check_template(fast)
    return fast


def encode(tokenizer: PreTrainedTokenizerFast, problems: Sequence[Problem]) -> list[tuple[list[int], list[int]]]:
    """Token ids and labels of each problem's whole conversation; labels of text not by the assistant are ``IGNORED``.

    Segments are encoded apart, as they are when an engine continues a prompt.
    """
    segments = [list(render(p.messages + p.trajectory, p.tools)) for p in problems]
    texts = [text for rendered in segments for text, _ in rendered]
    encodings = iter(tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False))
    encoded = []
    for rendered in segments:
        ids: list[int] = []
        labels: list[int] = []
        for _, by_assistant in rendered:
            piece = next(encodings).ids
            ids += piece
            labels += piece if by_assistant else [IGNORED] * len(piece)
        encoded.append((ids, labels))
    return encoded


def _corpus() -> list[str]:
    rng = random.Random(1)
    texts = []
    for _ in range(_CORPUS_SIZE):
        text = _text(draw(rng))
        for mark in (*SPECIAL_TOKENS, *TOOL_MARKS):
            text = text.replace(mark, "\n")
        texts.append(text)
    return texts


def _check_template(tokenizer: PreTrainedTokenizerFast) -> None:
    rng = random.Random(5)
    for _ in range(200):
        problem = draw(rng)
        messages = problem.messages + problem.trajectory
        by_template = tokenizer.apply_chat_template(messages, tools=problem.tools or None, tokenize=False)
        if by_template != _text(problem):
            raise RuntimeError(f"template and render() differ:\n{by_template!r}\n{_text(problem)!r}")


def _text(problem: Problem) -> str:
    return "".join(text for text, _ in render(problem.messages + problem.trajectory, problem.tools))
