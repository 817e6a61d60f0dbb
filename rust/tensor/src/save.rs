//! Writing a safetensors file: whole or not at all.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use lmrs_formats::Encoding;
use lmrs_formats::safetensors::{Layout, View};

use crate::{DType, Error, Result, Tensor};

impl From<DType> for Encoding {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::F64 => Self::F64,
            DType::F32 => Self::F32,
            DType::F16 => Self::F16,
            DType::BF16 => Self::BF16,
            DType::I32 => Self::I32,
        }
    }
}

/// Writes `tensors` and `metadata` to a safetensors file at `path`.
///
/// The bytes go to a temporary file beside it, reach the disk, and then take the name: whoever opens `path`, also
/// after a crash, finds the old file or the new one. Tensors may be mapped from the file that is replaced.
///
/// # Errors
/// [`Error::Format`] for names that repeat, [`Error::Io`] for what cannot be written; no file is left then.
pub fn save_safetensors<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let view = |(name, tensor): (&'a str, &'a Tensor)| View {
        name,
        encoding: tensor.dtype().into(),
        shape: tensor.shape(),
        bytes: tensor.bytes(),
    };
    let views = tensors.into_iter().map(view).collect();
    let layout = Layout::new(views, metadata).map_err(|source| Error::Format {
        path: path.to_owned(),
        source,
    })?;
    replace(path, |out| layout.write_to(out)).map_err(|source| Error::Io {
        path: path.to_owned(),
        source,
    })
}

/// A file that is deleted unless it takes its final name.
struct Temporary(Option<PathBuf>);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // Already on the way out with another error.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn replace(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    hidden.push(format!(".{}.{count}.tmp", std::process::id()));
    let temporary = path.with_file_name(hidden);

    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&temporary)?;
    let mut guard = Temporary(Some(temporary.clone()));
    let mut out = BufWriter::new(file);
    write(&mut out)?;
    out.into_inner()
        .map_err(io::IntoInnerError::into_error)?
        .sync_all()?;
    std::fs::rename(&temporary, path)?;
    guard.0 = None;
    // The new name itself must reach the disk.
    let directory = path.parent().filter(|d| !d.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}
