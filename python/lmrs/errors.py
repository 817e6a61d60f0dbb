"""The exceptions of lmrs. Each is an `Error` and also the builtin a caller would expect."""


class Error(Exception):
    """Base of every error lmrs raises on purpose."""


class FormatError(Error, ValueError):
    """A file is not what it claims to be; names the file, the tensor or key, and what was expected."""


class FileError(Error, OSError):
    """A file cannot be read or written."""


class MissingFileError(FileError, FileNotFoundError):
    """A file that is needed does not exist."""


class ConfigError(Error, ValueError):
    """A config that makes no sense, or does not fit the weights; names the field or the tensors."""


class ShapeError(Error, ValueError):
    """An op cannot take these shapes or dtypes; names the op."""


class InputError(Error, ValueError):
    """A value outside its range: an id beyond the vocabulary, a text beyond the context, an impossible option."""


class TokenizerError(Error, ValueError):
    """A tokenizer file that cannot be used, or text it cannot take."""


class InternalError(Error, RuntimeError):
    """Something that cannot happen did: a defect of lmrs, please report it."""
