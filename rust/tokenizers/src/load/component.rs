//! The components of a `tokenizer.json` beside the model.

use base64::Engine;

use super::field::Field;
use crate::{
    decode::Decoder,
    error::{Error, Result},
    normalize::{Bert, Charsmap, Fates, Form, Normalizer},
    pattern::Pattern,
    post::{Piece, Post, Special, Trim},
    split::{Behavior, Prepend, Splitter},
    tokenizer::Tokens,
};

pub(super) fn normalizer(field: &Field) -> Result<Normalizer> {
    Ok(match field.kind()? {
        "BertNormalizer" => {
            let lowercase = field.get("lowercase")?.bool()?;
            Normalizer::Bert(Box::new(Bert {
                clean_text: field.get("clean_text")?.bool()?,
                handle_chinese_chars: field.get("handle_chinese_chars")?.bool()?,
                strip_accents: field.flag("strip_accents", lowercase)?,
                lowercase,
                fates: Fates::default(),
            }))
        }
        "NFC" => Normalizer::Form(Form::Nfc),
        "NFD" => Normalizer::Form(Form::Nfd),
        "NFKC" => Normalizer::Form(Form::Nfkc),
        "NFKD" => Normalizer::Form(Form::Nfkd),
        "Nmt" => Normalizer::Nmt,
        "Lowercase" => Normalizer::Lowercase,
        "StripAccents" => Normalizer::StripAccents,
        "Strip" => Normalizer::Strip {
            left: field.get("strip_left")?.bool()?,
            right: field.get("strip_right")?.bool()?,
        },
        "Prepend" => Normalizer::Prepend(field.get("prepend")?.str()?.to_owned()),
        "Replace" => Normalizer::Replace {
            pattern: pattern(&field.get("pattern")?)?,
            content: field.get("content")?.str()?.to_owned(),
        },
        "Precompiled" => {
            let map = field.get("precompiled_charsmap")?;
            let bytes = base64::prelude::BASE64_STANDARD
                .decode(map.str()?)
                .map_err(|e| Error::invalid(&map.place, format!("not base64: {e}")))?;
            Normalizer::Charsmap(Charsmap::parse(&map.place, &bytes)?)
        }
        "ByteLevel" => Normalizer::ByteLevel,
        "Sequence" => Normalizer::Sequence(
            field
                .get("normalizers")?
                .list()?
                .iter()
                .map(normalizer)
                .collect::<Result<_>>()?,
        ),
        other => {
            return Err(field.unsupported(
                other,
                "BertNormalizer, ByteLevel, Lowercase, NFC, NFD, NFKC, NFKD, Nmt, Precompiled, Prepend, Replace, Sequence, Strip, \
                 StripAccents",
            ));
        }
    })
}

fn pattern(field: &Field) -> Result<Pattern> {
    if let Some(literal) = field.find("String") {
        Pattern::literal(&literal.place, literal.str()?)
    } else {
        let regex = field.get("Regex")?;
        Pattern::regex(&regex.place, regex.str()?)
    }
}

fn behavior(field: &Field) -> Result<Behavior> {
    Ok(match field.str()? {
        "Removed" => Behavior::Removed,
        "Isolated" => Behavior::Isolated,
        "Contiguous" => Behavior::Contiguous,
        "MergedWithPrevious" => Behavior::MergedWithPrevious,
        "MergedWithNext" => Behavior::MergedWithNext,
        other => {
            return Err(field.unsupported(
                other,
                "Removed, Isolated, Contiguous, MergedWithPrevious, MergedWithNext",
            ));
        }
    })
}

/// The mark of a Metaspace component and when it is put before a text.
fn metaspace(field: &Field) -> Result<(char, Prepend)> {
    let scheme = field.find("prepend_scheme");
    let mut prepend = match &scheme {
        None => Prepend::Always,
        Some(scheme) => match scheme.str()? {
            "always" => Prepend::Always,
            "first" => Prepend::First,
            "never" => Prepend::Never,
            other => return Err(scheme.unsupported(other, "always, first, never")),
        },
    };
    if !field.flag("add_prefix_space", true)? {
        if scheme.is_some() && prepend != Prepend::Never {
            return Err(Error::invalid(
                &field.place,
                "`add_prefix_space` is false, but `prepend_scheme` is not `never`",
            ));
        }
        prepend = Prepend::Never;
    }
    Ok((field.get("replacement")?.char()?, prepend))
}

fn fixed_length(field: &Field) -> Result<usize> {
    let Some(length) = field.find("length") else {
        return Ok(5);
    };
    match length.u32()? {
        0 => Err(Error::invalid(
            &length.place,
            "expected at least 1, found 0",
        )),
        length => Ok(length as usize),
    }
}

pub(super) fn splitter(field: &Field) -> Result<Splitter> {
    Ok(match field.kind()? {
        "BertPreTokenizer" => Splitter::Bert,
        "ByteLevel" => Splitter::ByteLevel {
            prefix_space: field.get("add_prefix_space")?.bool()?,
            words: field.flag("use_regex", true)?,
        },
        "Metaspace" => {
            let (mark, prepend) = metaspace(field)?;
            Splitter::Metaspace {
                mark,
                prepend,
                split: field.flag("split", true)?,
            }
        }
        "Split" => Splitter::Pattern {
            pattern: pattern(&field.get("pattern")?)?,
            behavior: behavior(&field.get("behavior")?)?,
            invert: field.get("invert")?.bool()?,
        },
        "CharDelimiterSplit" => Splitter::Delimiter(field.get("delimiter")?.char()?),
        "Digits" => Splitter::Digits {
            individual: field.get("individual_digits")?.bool()?,
        },
        "Punctuation" => Splitter::Punctuation(
            field
                .find("behavior")
                .map_or(Ok(Behavior::Isolated), |field| behavior(&field))?,
        ),
        "Whitespace" => Splitter::Whitespace,
        "WhitespaceSplit" => Splitter::WhitespaceSplit,
        "UnicodeScripts" => Splitter::Scripts,
        "FixedLength" => Splitter::FixedLength(fixed_length(field)?),
        "Sequence" => Splitter::Sequence(
            field
                .get("pretokenizers")?
                .list()?
                .iter()
                .map(splitter)
                .collect::<Result<_>>()?,
        ),
        other => {
            return Err(field.unsupported(
                other,
                "BertPreTokenizer, ByteLevel, CharDelimiterSplit, Digits, FixedLength, Metaspace, Punctuation, Sequence, Split, \
                 UnicodeScripts, Whitespace, WhitespaceSplit",
            ));
        }
    })
}

pub(super) fn decoder(field: &Field) -> Result<Decoder> {
    Ok(match field.kind()? {
        "ByteLevel" => Decoder::ByteLevel,
        "WordPiece" => Decoder::WordPiece {
            prefix: field.get("prefix")?.str()?.to_owned(),
            cleanup: field.get("cleanup")?.bool()?,
        },
        "Metaspace" => {
            let (mark, prepend) = metaspace(field)?;
            Decoder::Metaspace {
                mark,
                keep_first: prepend == Prepend::Never,
            }
        }
        "ByteFallback" => Decoder::ByteFallback,
        "Fuse" => Decoder::Fuse,
        "Replace" => Decoder::Replace {
            pattern: pattern(&field.get("pattern")?)?,
            content: field.get("content")?.str()?.to_owned(),
        },
        "Strip" => Decoder::Strip {
            content: field.get("content")?.char()?,
            start: field.get("start")?.u32()? as usize,
            stop: field.get("stop")?.u32()? as usize,
        },
        "CTC" => Decoder::Ctc {
            blank: field.get("pad_token")?.str()?.to_owned(),
            space: field.get("word_delimiter_token")?.str()?.to_owned(),
            cleanup: field.get("cleanup")?.bool()?,
        },
        "BPEDecoder" => Decoder::Bpe {
            suffix: field.get("suffix")?.str()?.to_owned(),
        },
        "Sequence" => Decoder::Sequence(
            field
                .get("decoders")?
                .list()?
                .iter()
                .map(decoder)
                .collect::<Result<_>>()?,
        ),
        other => {
            return Err(field.unsupported(
                other,
                "BPEDecoder, ByteFallback, ByteLevel, CTC, Fuse, Metaspace, Replace, Sequence, Strip, WordPiece",
            ));
        }
    })
}

pub(super) fn post(field: &Field, tokens: &Tokens) -> Result<Post> {
    let trim = |field: &Field| -> Result<Option<Trim>> {
        let prefix_space = field.get("add_prefix_space")?.bool()?;
        Ok(field
            .get("trim_offsets")?
            .bool()?
            .then_some(Trim { prefix_space }))
    };
    Ok(match field.kind()? {
        "TemplateProcessing" => Post::Template {
            single: template(field, "single", 1, tokens)?,
            pair: template(field, "pair", 2, tokens)?,
        },
        "BertProcessing" => Post::Bert {
            cls: named(&field.get("cls")?, tokens)?,
            sep: named(&field.get("sep")?, tokens)?,
        },
        "RobertaProcessing" => Post::Roberta {
            cls: named(&field.get("cls")?, tokens)?,
            sep: named(&field.get("sep")?, tokens)?,
            trim: trim(field)?,
        },
        "ByteLevel" => Post::ByteLevel(trim(field)?),
        "Sequence" => {
            let steps = field
                .get("processors")?
                .list()?
                .iter()
                .map(|step| post(step, tokens))
                .collect::<Result<Vec<_>>>()?;
            if steps.iter().filter(|step| step.arranges()).count() > 1 {
                return Err(Error::invalid(
                    &field.place,
                    "more than one step adds special tokens",
                ));
            }
            Post::Sequence(steps)
        }
        other => {
            return Err(field.unsupported(
                other,
                "BertProcessing, ByteLevel, RobertaProcessing, Sequence, TemplateProcessing",
            ));
        }
    })
}

/// A token and its id, written `["[SEP]", 102]`.
fn named(field: &Field, tokens: &Tokens) -> Result<Special> {
    match field.list()?.as_slice() {
        [token, id] => special(field, token.str()?, id.u32()?, tokens),
        _ => Err(Error::invalid(&field.place, "expected a token and its id")),
    }
}

fn special(field: &Field, token: &str, id: u32, tokens: &Tokens) -> Result<Special> {
    if tokens.token(id).is_none() {
        return Err(Error::invalid(
            &field.place,
            format!("no token has the id {id} given for {token:?}"),
        ));
    }
    Ok(Special {
        id,
        token: token.to_owned(),
    })
}

fn template(field: &Field, name: &str, texts: usize, tokens: &Tokens) -> Result<Vec<Piece>> {
    let specials = field.get("special_tokens")?;
    let pieces = field.get(name)?.list()?;
    let piece = |piece: &Field| -> Result<Piece> {
        if let Some(text) = piece.find("Sequence") {
            let id = text.get("id")?;
            let at = match id.str()? {
                "A" => 0,
                "B" if texts == 2 => 1,
                other => return Err(id.unsupported(other, if texts == 2 { "A, B" } else { "A" })),
            };
            return Ok(Piece::Text(at, text.get("type_id")?.u32()?));
        }
        let special_token = piece.get("SpecialToken")?;
        let entry = specials.get(special_token.get("id")?.str()?)?;
        let (ids, texts) = (entry.get("ids")?.list()?, entry.get("tokens")?.list()?);
        if ids.len() != texts.len() {
            return Err(Error::invalid(
                &entry.place,
                format!("{} ids, but {} tokens", ids.len(), texts.len()),
            ));
        }
        let all = ids
            .iter()
            .zip(&texts)
            .map(|(id, text)| special(id, text.str()?, id.u32()?, tokens));
        Ok(Piece::Special(
            all.collect::<Result<_>>()?,
            special_token.get("type_id")?.u32()?,
        ))
    };
    pieces.iter().map(piece).collect()
}
