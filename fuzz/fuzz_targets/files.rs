//! Every other file that describes a tokenizer, and a text for what loads.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lmrs_fuzz::File;

fuzz_target!(|case: File| case.run());
