"""How a text is encoded: what is said with a call."""

from functools import lru_cache
from typing import Literal, TypedDict, Unpack

from lmrs import _rs
from lmrs.errors import InputError

__all__ = ["Options", "native_options"]

Truncate = Literal["longest_first", "only_first", "only_second"]
Side = Literal["left", "right"]


class Options(TypedDict, total=False):
    """How to encode; all of it is said with the call, and forgotten after it.

    Attributes:
        add_special_tokens: Whether to put the model's special tokens around the text. Yes if not said.
        split_special_tokens: Whether special tokens written in the text are ordinary text; set it for text that users
            write.
        offsets: What offsets count: `characters` if not said, or `bytes` of UTF-8.
        max_length: Most tokens to give, special ones included; the rest is cut off, and is in `Encoding.overflowing`.
        truncate: Which text of a pair is cut: `longest_first` if not said.
        side: The end that is cut off: `right` if not said.
        stride: How many tokens each stretch of `overflowing` shares with the one before.
        padding: `longest` fills all texts of a list up to the longest, a number up to so many tokens.
        pad_to_multiple_of: The length after padding is rounded up to a multiple of this.
        pad_side: The end that is filled up: `right` if not said.
        pad_id: What it is filled with; the padding token's id if not said.
        pad_type_id: The segment of the padding, 0 if not said.
        dropout: The probability with which each possible merge of a byte-pair model is left out, before each merge anew
            (BPE-dropout, Provilkov et al., 2020); 0 if not said, whatever `Tokenizer.dropout` is.
        seed: What is left out is a function of this, of the text's place in the list and of the word's in the text.
    """

    add_special_tokens: bool
    split_special_tokens: bool
    offsets: Literal["characters", "bytes"]
    max_length: int | None
    truncate: Truncate
    side: Side
    stride: int
    padding: Literal["longest"] | int | None
    pad_to_multiple_of: int
    pad_side: Side
    pad_id: int
    pad_type_id: int
    dropout: float
    seed: int


def native_options(given: Options, pad_id: int | None) -> _rs.EncodeOptions | None:
    """The options as the Rust side has them; None if nothing is said. `pad_id` is the tokenizer's.

    Raises:
        InputError: An option is unknown, or a number is out of its range.
    """
    return _read(pad_id, **given) if given else None


# Reading them takes as long as encoding half a page.
@lru_cache(maxsize=64, typed=True)
def _read(pad_id: int | None, /, **given: Unpack[Options]) -> _rs.EncodeOptions:
    if unknown := given.keys() - Options.__annotations__.keys():
        raise InputError(f"unknown option {min(unknown)}, expected one of {', '.join(Options.__annotations__)}")
    for name in ("max_length", "stride", "pad_to_multiple_of", "pad_id", "pad_type_id"):
        if isinstance(value := given.get(name), int) and not 0 <= value < 1 << 32:
            raise InputError(f"{name} is {value}, expected 0 to {(1 << 32) - 1}")
    if isinstance(seed := given.get("seed", 0), int) and not 0 <= seed < 1 << 64:
        raise InputError(f"seed is {seed}, expected 0 to {(1 << 64) - 1}")
    padding = given.get("padding")
    fill = None
    if padding is not None:
        if padding != "longest" and (not isinstance(padding, int) or not 0 <= padding < 1 << 32):
            raise InputError(f"padding is {padding!r}, expected 'longest' or a number of tokens")
        pad_id = given.get("pad_id", pad_id)
        if pad_id is None:
            raise InputError("the tokenizer has no token for padding: give pad_id")
        fill = {
            "length": None if padding == "longest" else padding,
            "multiple": given.get("pad_to_multiple_of", 1),
            "side": given.get("pad_side", "right"),
            "id": pad_id,
            "type_id": given.get("pad_type_id", 0),
        }
    options = {
        "add_special_tokens": given.get("add_special_tokens", True),
        "split_special_tokens": given.get("split_special_tokens", False),
        "offsets": given.get("offsets", "characters"),
        "max_length": given.get("max_length"),
        "truncate": given.get("truncate", "longest_first"),
        "side": given.get("side", "right"),
        "stride": given.get("stride", 0),
        "padding": fill,
        "dropout": given.get("dropout", 0.0),
        "seed": given.get("seed", 0),
    }
    return _rs.EncodeOptions(options)
