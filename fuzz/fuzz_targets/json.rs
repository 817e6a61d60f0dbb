//! `tokenizer.json` with parts changed, and a text for what loads.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lmrs_fuzz::Json;

fuzz_target!(|case: Json| case.run());
