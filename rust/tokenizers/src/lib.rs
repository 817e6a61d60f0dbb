//! Tokenizers: byte-level BPE, WordPiece, Unigram; ids and offsets exact
