//! How the elements of a tensor are stored: plain numbers, or blocks of quantised ones.

use crate::FormatError;

macro_rules! encodings {
    ($($variant:ident $name:literal $elements:literal $bytes:literal $ggml:expr;)*) => {
        /// How the elements of a tensor are stored: the dtypes of safetensors and the tensor types of GGML.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "each variant is the field's own name for it")]
        pub enum Encoding { $($variant),* }

        impl Encoding {
            const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name in safetensors headers or in GGML.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// Elements of one block; 1 for plain numbers.
            pub const fn block_elements(self) -> usize {
                match self { $(Self::$variant => $elements),* }
            }

            /// Bytes of one block.
            pub const fn block_bytes(self) -> usize {
                match self { $(Self::$variant => $bytes),* }
            }

            /// The number by which GGUF files know it.
            pub const fn ggml_type(self) -> Option<u32> {
                match self { $(Self::$variant => $ggml),* }
            }
        }
    };
}

// Name, elements and bytes of a block, GGML type number (safetensors specification; ggml-common.h).
encodings! {
    F64     "F64"     1   8   Some(28);
    F32     "F32"     1   4   Some(0);
    F16     "F16"     1   2   Some(1);
    BF16    "BF16"    1   2   Some(30);
    I64     "I64"     1   8   Some(27);
    I32     "I32"     1   4   Some(26);
    I16     "I16"     1   2   Some(25);
    I8      "I8"      1   1   Some(24);
    U64     "U64"     1   8   None;
    U32     "U32"     1   4   None;
    U16     "U16"     1   2   None;
    U8      "U8"      1   1   None;
    Bool    "BOOL"    1   1   None;
    C64     "C64"     1   8   None;
    F8E4M3  "F8_E4M3" 1   1   None;
    F8E5M2  "F8_E5M2" 1   1   None;
    F8E8M0  "F8_E8M0" 1   1   None;
    F8E4M3Fnuz "F8_E4M3FNUZ" 1 1 None;
    F8E5M2Fnuz "F8_E5M2FNUZ" 1 1 None;
    F6E2M3  "F6_E2M3" 4   3   None;
    F6E3M2  "F6_E3M2" 4   3   None;
    F4      "F4"      2   1   None;
    Q4_0    "Q4_0"    32  18  Some(2);
    Q4_1    "Q4_1"    32  20  Some(3);
    Q5_0    "Q5_0"    32  22  Some(6);
    Q5_1    "Q5_1"    32  24  Some(7);
    Q8_0    "Q8_0"    32  34  Some(8);
    Q8_1    "Q8_1"    32  40  Some(9);
    Q2K     "Q2_K"    256 84  Some(10);
    Q3K     "Q3_K"    256 110 Some(11);
    Q4K     "Q4_K"    256 144 Some(12);
    Q5K     "Q5_K"    256 176 Some(13);
    Q6K     "Q6_K"    256 210 Some(14);
    Q8K     "Q8_K"    256 292 Some(15);
    Iq2Xxs  "IQ2_XXS" 256 66  Some(16);
    Iq2Xs   "IQ2_XS"  256 74  Some(17);
    Iq3Xxs  "IQ3_XXS" 256 98  Some(18);
    Iq1S    "IQ1_S"   256 50  Some(19);
    Iq4Nl   "IQ4_NL"  32  18  Some(20);
    Iq3S    "IQ3_S"   256 110 Some(21);
    Iq2S    "IQ2_S"   256 82  Some(22);
    Iq4Xs   "IQ4_XS"  256 136 Some(23);
    Iq1M    "IQ1_M"   256 56  Some(29);
    Tq1_0   "TQ1_0"   256 54  Some(34);
    Tq2_0   "TQ2_0"   256 66  Some(35);
    Mxfp4   "MXFP4"   32  17  Some(39);
    Nvfp4   "NVFP4"   64  36  Some(40);
    Q1_0    "Q1_0"    128 18  Some(41);
}

impl Encoding {
    /// The encodings [`decode`](crate::decode) understands.
    pub const READABLE: [Self; 14] = [
        Self::F64,
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// The encoding that safetensors headers call `name`; GGML's block formats are not among them.
    pub(crate) fn from_safetensors(name: &str) -> Option<Self> {
        let named = |e: &&Self| e.name() == name;
        (Self::ALL.iter().copied().find(|e| named(&e))).filter(|e| e.in_safetensors())
    }

    /// Whether a safetensors file can hold it.
    pub(crate) const fn in_safetensors(self) -> bool {
        self.block_elements() <= 4
    }

    /// The encoding of the GGML type `number`.
    pub(crate) fn from_ggml(number: u32) -> Option<Self> {
        (Self::ALL.iter().copied()).find(|e| e.ggml_type() == Some(number))
    }

    /// Bytes of `elements` elements; `None` if they do not fill whole blocks or overflow.
    pub fn bytes(self, elements: usize) -> Option<usize> {
        let whole = elements.checked_rem(self.block_elements())? == 0;
        let blocks = elements.checked_div(self.block_elements())?;
        whole.then(|| blocks.checked_mul(self.block_bytes()))?
    }

    /// The error for a tensor called `name` stored this way, where it cannot be read.
    pub fn unsupported(self, name: &str) -> FormatError {
        FormatError::Unsupported {
            what: format!("tensor {}", crate::error::quoted(name)),
            encoding: self.name(),
            readable: Self::READABLE.map(Self::name).join(", "),
        }
    }
}

/// The number of elements of `shape`; `None` when the product of its non-zero extents overflows.
///
/// Zero extents are left out on purpose: `[0, 2⁶³, 2⁶³]` holds nothing, yet the product of its last axes wraps.
pub(crate) fn elements(shape: &[usize]) -> Option<usize> {
    let extents = shape.iter().filter(|&&d| d != 0);
    let product = extents.copied().try_fold(1usize, usize::checked_mul)?;
    Some(if shape.contains(&0) { 0 } else { product })
}
