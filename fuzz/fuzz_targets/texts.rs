//! Texts of any kind through tokenizers that are sound.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lmrs_fuzz::Texts;

fuzz_target!(|case: Texts| case.run());
