//! Text on its way to the model: normalised, cut into words, every byte knowing where in the input it came from.

use std::borrow::Cow;

/// Bytes `start..end` of the input.
pub(crate) type Origin = (u32, u32);

/// Text with, for every byte, the bytes of the input it came from.
///
/// All bytes of one character share one origin, and origins never go backwards.
#[derive(Clone)]
pub(crate) struct Aligned<'a> {
    text: Cow<'a, str>,
    /// `None` while the text is still `input[base..base + text.len()]`.
    origins: Option<Vec<Origin>>,
    base: u32,
}

/// Receives the characters of a rewritten text.
pub(crate) struct Sink {
    text: String,
    origins: Vec<Origin>,
}

impl Sink {
    fn with_capacity(bytes: usize) -> Self {
        Self {
            text: String::with_capacity(bytes),
            origins: Vec::with_capacity(bytes),
        }
    }

    pub(crate) fn push(&mut self, c: char, origin: Origin) {
        self.text.push(c);
        self.origins.resize(self.text.len(), origin);
    }
}

impl<'a> Aligned<'a> {
    /// `text` at byte `base` of the input.
    pub(crate) fn new(text: &'a str, base: usize) -> Self {
        Self {
            text: Cow::Borrowed(text),
            origins: None,
            base: base as u32,
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the text is the input itself, from its beginning.
    pub(crate) fn is_input(&self) -> bool {
        self.origins.is_none() && self.base == 0
    }

    /// Every character with its origin.
    pub(crate) fn chars(&self) -> impl Iterator<Item = (char, Origin)> {
        self.text
            .char_indices()
            .map(|(at, c)| (c, self.origin_of_char(at, c)))
    }

    fn origin_of_char(&self, at: usize, c: char) -> Origin {
        match &self.origins {
            Some(origins) => origins.get(at).copied().unwrap_or((self.base, self.base)),
            None => (
                self.base + at as u32,
                self.base + (at + c.len_utf8()) as u32,
            ),
        }
    }

    /// The origin of the character that byte `at` belongs to.
    pub(crate) fn origin(&self, at: usize) -> Origin {
        if let Some(origins) = &self.origins {
            origins.get(at).copied().unwrap_or((self.base, self.base))
        } else {
            let start = self.text.floor_char_boundary(at);
            let end = self.text.ceil_char_boundary(at + 1);
            (self.base + start as u32, self.base + end as u32)
        }
    }

    /// What bytes `start..end` came from; `None` if there are no such bytes.
    pub(crate) fn origin_of(&self, start: usize, end: usize) -> Option<Origin> {
        if start >= end || end > self.text.len() {
            return None;
        }
        Some((self.origin(start).0, self.origin(end - 1).1))
    }

    pub(crate) fn set(&mut self, sink: Sink) {
        self.text = Cow::Owned(sink.text);
        self.origins = Some(sink.origins);
    }

    /// A sink as large as this text.
    pub(crate) fn sink(&self) -> Sink {
        Sink::with_capacity(self.text.len())
    }

    /// Replaces each character by what `f` pushes for it; all of that keeps the character's origin.
    pub(crate) fn map_chars(&mut self, mut f: impl FnMut(char, &mut dyn FnMut(char))) {
        let mut sink = self.sink();
        for (c, origin) in self.chars() {
            f(c, &mut |new| sink.push(new, origin));
        }
        self.set(sink);
    }

    /// Keeps the characters for which `keep` holds.
    pub(crate) fn retain(&mut self, keep: impl Fn(char) -> bool) {
        if !self.text.chars().all(&keep) {
            self.map_chars(|c, push| {
                if keep(c) {
                    push(c);
                }
            });
        }
    }

    /// Puts `prefix` before the text; it shares the origin of the first character. Nothing happens to an empty text.
    pub(crate) fn prepend(&mut self, prefix: &str) {
        let mut first = true;
        self.map_chars(|c, push| {
            if std::mem::take(&mut first) {
                prefix.chars().for_each(&mut *push);
            }
            push(c);
        });
    }

    /// Replaces the given byte ranges by `content`, which takes the origin of the last character replaced.
    pub(crate) fn replace(&mut self, matches: &[(usize, usize)], content: &str) {
        if matches.is_empty() {
            return;
        }
        let mut sink = self.sink();
        let mut ranges = matches.iter().copied().peekable();
        for (at, c) in self.text.char_indices() {
            while ranges.next_if(|&(_, end)| end <= at).is_some() {}
            let origin = self.origin_of_char(at, c);
            match ranges.peek() {
                Some(&(start, end)) if start <= at => {
                    if at + c.len_utf8() >= end {
                        content.chars().for_each(|c| sink.push(c, origin));
                    }
                }
                _ => sink.push(c, origin),
            }
        }
        self.set(sink);
    }

    /// Rewrites the text as a sequence of edits: `(c, 0)` puts `c` in the place of the next character, `(c, -n)` does so
    /// and drops `n` more, `(c, 1)` inserts `c` with the origin of the character before it.
    pub(crate) fn edit(&mut self, edits: impl Iterator<Item = (char, isize)>) {
        let mut sink = self.sink();
        let mut old = self.chars().map(|(_, origin)| origin);
        let mut last = (self.base, self.base);
        for (c, change) in edits {
            if change > 0 {
                sink.push(c, last);
                continue;
            }
            last = old.next().unwrap_or(last);
            sink.push(c, last);
            for _ in change..0 {
                last = old.next().unwrap_or(last);
            }
        }
        drop(old);
        self.set(sink);
    }
}

/// A cut of a text: a word for the model, or an added token already found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// The id, if this is an added token.
    pub(crate) token: Option<u32>,
}

/// The whole input after normalisation, and its cuts.
pub(crate) struct Text<'a> {
    pub(crate) aligned: Aligned<'a>,
    pub(crate) spans: Vec<Span>,
}

impl<'a> Text<'a> {
    /// Joins the sections of `input`, each with its cuts, into one text.
    pub(crate) fn join(input: &'a str, mut sections: Vec<(Aligned<'a>, Vec<Span>)>) -> Self {
        if sections
            .iter()
            .all(|(aligned, _)| aligned.origins.is_none())
        {
            let shifted = |(aligned, spans): (Aligned, Vec<Span>)| {
                let shift = aligned.base as usize;
                spans.into_iter().map(move |span| Span {
                    start: span.start + shift,
                    end: span.end + shift,
                    token: span.token,
                })
            };
            return Self {
                aligned: Aligned::new(input, 0),
                spans: sections.into_iter().flat_map(shifted).collect(),
            };
        }
        if sections.len() <= 1 {
            let (aligned, spans) = sections.pop().unwrap_or((Aligned::new("", 0), Vec::new()));
            return Self { aligned, spans };
        }
        let mut sink = Sink::with_capacity(
            sections
                .iter()
                .map(|(aligned, _)| aligned.as_str().len())
                .sum(),
        );
        let mut all = Vec::with_capacity(sections.len());
        for (aligned, spans) in sections {
            let shift = sink.text.len();
            aligned.chars().for_each(|(c, origin)| sink.push(c, origin));
            all.extend(spans.iter().map(|span| Span {
                start: span.start + shift,
                end: span.end + shift,
                token: span.token,
            }));
        }
        let mut aligned = Aligned::new("", 0);
        aligned.set(sink);
        Self {
            aligned,
            spans: all,
        }
    }

    /// The text of a span.
    pub(crate) fn str(&self, span: &Span) -> &str {
        self.aligned
            .as_str()
            .get(span.start..span.end)
            .unwrap_or("")
    }

    /// Cuts every word further: `cut` gets the word and pushes the ranges to keep, in bytes of the word.
    pub(crate) fn split(&mut self, mut cut: impl FnMut(&str, &mut Vec<(usize, usize)>)) {
        let mut spans = Vec::with_capacity(self.spans.len());
        let mut ranges = Vec::new();
        for span in &self.spans {
            if span.token.is_some() {
                spans.push(*span);
                continue;
            }
            ranges.clear();
            cut(self.str(span), &mut ranges);
            spans.extend(
                ranges
                    .iter()
                    .filter(|(start, end)| start < end)
                    .map(|(start, end)| Span {
                        start: span.start + start,
                        end: span.start + end,
                        token: None,
                    }),
            );
        }
        self.spans = spans;
    }

    /// Rewrites every word: `rewrite` gets its characters, the origin of the first one, and the sink.
    /// Added tokens stay as they are.
    pub(crate) fn rewrite(
        &mut self,
        mut rewrite: impl FnMut(&str, Origin, &mut dyn Iterator<Item = (char, Origin)>, &mut Sink),
    ) {
        let mut sink = self.aligned.sink();
        let mut spans = Vec::with_capacity(self.spans.len());
        for span in &self.spans {
            let start = sink.text.len();
            let word = self.str(span);
            let mut chars = word
                .char_indices()
                .map(|(at, c)| (c, self.aligned.origin_of_char(span.start + at, c)));
            if span.token.is_some() {
                chars.for_each(|(c, origin)| sink.push(c, origin));
            } else {
                rewrite(word, self.aligned.origin(span.start), &mut chars, &mut sink);
            }
            spans.push(Span {
                start,
                end: sink.text.len(),
                token: span.token,
            });
        }
        self.aligned.set(sink);
        self.spans = spans;
    }
}

/// Byte offsets to character offsets.
pub(crate) struct Characters(Option<Vec<u32>>);

impl Characters {
    /// Bytes stay bytes.
    pub(crate) fn bytes() -> Self {
        Self(None)
    }

    pub(crate) fn of(text: &str) -> Self {
        if text.is_ascii() {
            return Self(None);
        }
        let mut starts = Vec::with_capacity(text.len() + 1);
        for (number, c) in text.chars().enumerate() {
            starts.resize(starts.len() + c.len_utf8(), number as u32);
        }
        starts.push(starts.last().map_or(0, |last| last + 1));
        Self(Some(starts))
    }

    pub(crate) fn range(&self, (start, end): (u32, u32)) -> (u32, u32) {
        let Some(starts) = &self.0 else {
            return (start, end);
        };
        match (starts.get(start as usize), starts.get(end as usize)) {
            (Some(start), Some(end)) => (*start, *end),
            _ => (start, end),
        }
    }
}

/// Character offsets to byte offsets.
pub(crate) struct Bytes(Option<Vec<u32>>);

impl Bytes {
    pub(crate) fn of(text: &str) -> Self {
        let starts = || text.char_indices().map(|(at, _)| at as u32);
        Self((!text.is_ascii()).then(|| starts().chain([text.len() as u32]).collect()))
    }

    pub(crate) fn at(&self, character: u32) -> u32 {
        let starts = self.0.as_ref();
        starts.map_or(character, |starts| {
            starts.get(character as usize).copied().unwrap_or(0)
        })
    }
}
