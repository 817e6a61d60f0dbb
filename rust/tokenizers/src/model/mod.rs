//! Models: turn a word into ids.

mod bpe;
mod cache;
mod merge;
mod sentencepiece;
mod trie;
mod unigram;
mod viterbi;
mod wordlevel;
mod wordpiece;

pub(crate) use bpe::{Bpe, BpeOptions};
pub(crate) use cache::{AT_ONCE, Cache, Cached, Caches, Key, Long, Short};
pub(crate) use sentencepiece::{Piece, SentencePiece};
pub(crate) use trie::Trie;
pub(crate) use unigram::Unigram;
pub(crate) use wordlevel::WordLevel;
pub(crate) use wordpiece::WordPiece;

use crate::{error::Result, vocabulary::Vocabulary};

/// A token of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) id: u32,
    /// Bytes of the word.
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// The token's text is that of the word, not that of the vocabulary.
    pub(crate) literal: bool,
}

/// What the models write to while they work; kept between words so that nothing is allocated for each.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) tokens: Vec<Token>,
    bpe: merge::Scratch,
    unigram: Vec<viterbi::Best<f64>>,
    sentencepiece: Vec<viterbi::Best<f32>>,
    key: String,
}

/// A model of any kind.
pub(crate) enum Model {
    Bpe(Bpe),
    WordPiece(WordPiece),
    Unigram(Unigram),
    WordLevel(WordLevel),
    SentencePiece(SentencePiece),
}

impl Model {
    /// Writes the tokens of `word` to `scratch.tokens`.
    pub(crate) fn tokenize(&self, word: &str, scratch: &mut Scratch) -> Result<()> {
        scratch.tokens.clear();
        match self {
            Self::Bpe(bpe) => bpe.tokenize(word, scratch),
            Self::WordPiece(wordpiece) => {
                wordpiece.tokenize(word, scratch);
                Ok(())
            }
            Self::Unigram(unigram) => unigram.tokenize(word, scratch),
            Self::WordLevel(wordlevel) => wordlevel.tokenize(word, scratch),
            Self::SentencePiece(pieces) => {
                pieces.tokenize(word, scratch);
                Ok(())
            }
        }
    }

    /// Whether words can be given as they are where they would be spelled byte by byte.
    pub(crate) fn takes_bytes(&self) -> bool {
        matches!(self, Self::Bpe(bpe) if bpe.takes_bytes())
    }

    /// As `tokenize`, of a word that is not yet spelled byte by byte. Only a model that takes bytes has tokens for it.
    pub(crate) fn tokenize_bytes(&self, word: &str, scratch: &mut Scratch) {
        scratch.tokens.clear();
        if let Self::Bpe(bpe) = self {
            bpe.tokenize_bytes(word, scratch);
        }
    }

    pub(crate) fn vocabulary(&self) -> &Vocabulary {
        match self {
            Self::Bpe(bpe) => bpe.vocabulary(),
            Self::WordPiece(wordpiece) => wordpiece.vocabulary(),
            Self::Unigram(unigram) => unigram.vocabulary(),
            Self::WordLevel(wordlevel) => wordlevel.vocabulary(),
            Self::SentencePiece(pieces) => pieces.vocabulary(),
        }
    }

    pub(crate) fn unknown(&self) -> Option<u32> {
        match self {
            Self::Bpe(bpe) => bpe.unknown(),
            Self::WordPiece(wordpiece) => Some(wordpiece.unknown()),
            Self::Unigram(unigram) => unigram.unknown(),
            Self::WordLevel(wordlevel) => wordlevel.unknown(),
            Self::SentencePiece(pieces) => Some(pieces.unknown()),
        }
    }

    /// What this kind of model is called.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Bpe(_) => "BPE",
            Self::WordPiece(_) => "WordPiece",
            Self::Unigram(_) | Self::SentencePiece(_) => "Unigram",
            Self::WordLevel(_) => "WordLevel",
        }
    }
}

/// The ids of the tokens `<0x00>` to `<0xFF>`, where the vocabulary has them.
struct ByteTokens(Box<[Option<u32>; 256]>);

impl ByteTokens {
    fn of(vocabulary: &Vocabulary) -> Self {
        let mut ids = Box::new([None; 256]);
        for (byte, id) in ids.iter_mut().enumerate() {
            *id = vocabulary.id(&format!("<0x{byte:02X}>"));
        }
        Self(ids)
    }

    /// The ids of the bytes of `text`, if all of them have one.
    fn spell(&self, text: &str) -> Option<impl Iterator<Item = u32>> {
        let id = |byte: u8| self.0.get(byte as usize).copied().flatten();
        let all = text.bytes().all(|byte| id(byte).is_some());
        all.then(|| text.bytes().filter_map(id))
    }
}
