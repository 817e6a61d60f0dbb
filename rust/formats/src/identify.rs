//! Which kind of file this is, by its bytes first and its name second.

use crate::{Format, FormatError, Result};

const PICKLE_EXTENSIONS: [&str; 6] = ["bin", "pt", "pth", "ckpt", "pkl", "pickle"];

/// What the file called `name` that begins with `head` (16 bytes are enough) is.
///
/// # Errors
/// [`FormatError::Pickle`] for pickles and for the zip archives torch puts them in, [`FormatError::Unknown`] for
/// anything else that is neither safetensors nor GGUF.
pub fn identify(name: &str, head: &[u8]) -> Result<Format> {
    if head.starts_with(b"GGUF") {
        return Ok(Format::Gguf);
    }
    // A header shorter than 4 GiB that opens an object. Looked for before pickle: a header of 0x0480 bytes begins
    // with the same two bytes as a pickle of protocol 4.
    if let [_, _, _, _, 0, 0, 0, 0, b'{', ..] = head {
        return Ok(Format::Safetensors);
    }
    let extension = name.rsplit_once('.').map_or("", |(_, e)| e);
    let is = |wanted: &str| extension.eq_ignore_ascii_case(wanted);
    let pickle = |evidence: String| Err(FormatError::Pickle { evidence });
    match head {
        [b'P', b'K', 3, 4, ..] => pickle("is a zip archive, as torch.save writes".to_owned()),
        [0x80, 2..=5, ..] => pickle("begins as a pickle".to_owned()),
        _ if PICKLE_EXTENSIONS.iter().any(|e| is(e)) => {
            pickle(format!("is named *.{extension}, as pickles are"))
        }
        // Let the parser say what is wrong with it.
        _ if is("safetensors") => Ok(Format::Safetensors),
        _ if is("gguf") => Ok(Format::Gguf),
        _ => Err(FormatError::Unknown {
            head: format!("\"{}\"", head.get(..8).unwrap_or(head).escape_ascii()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_bytes_before_names() {
        assert_eq!(identify("a.bin", b"GGUF\x03\0\0\0"), Ok(Format::Gguf));
        assert_eq!(
            identify("a", b"\x80\x04\0\0\0\0\0\0{\"a\""),
            Ok(Format::Safetensors)
        );
        for (name, head) in [
            ("pytorch_model.bin", &b"PK\x03\x04"[..]),
            ("model.safetensors", b"PK\x03\x04\x14\0"),
            ("weights", b"\x80\x02\x8a\x0al\xfc"),
            ("x.PT", b"anything"),
            ("x.ckpt", b""),
        ] {
            let error = identify(name, head).unwrap_err();
            assert!(matches!(error, FormatError::Pickle { .. }), "{name}");
            assert!(error.to_string().contains("save_file"), "{error}");
        }
        assert_eq!(identify("x.gguf", b"FUGG"), Ok(Format::Gguf));
        assert!(matches!(
            identify("x.npy", b"\x93NUMPY"),
            Err(FormatError::Unknown { .. })
        ));
    }
}
