"""Train the demo's tokenizer: a byte-level BPE of 1,024 tokens on the texts that ship with the package.

Run from the repository root with the `tokenizers` package of Hugging Face installed; the result is committed.
"""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TEXTS = Path("python/lmrs/demo/corpus")
VOCABULARY = 1024


def train() -> Tokenizer:
    """Learn the merges; the alphabet holds all 256 bytes, so no text is ever unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train([str(TEXTS / "shakespeare.txt"), str(TEXTS / "inaugural.txt")], trainer)
    return tokenizer


if __name__ == "__main__":
    train().save(str(TEXTS / "tokenizer.json"))
