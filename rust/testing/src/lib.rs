//! What the property tests of the crates share.
#![forbid(unsafe_code)]

pub mod hostile;
pub mod tokenizers;

use proptest::test_runner::Config;

/// A configuration of `usual` cases, or as many as `PROPTEST_CASES` says: few for a quick run, many for a slow one.
///
/// A failure prints its smallest case and is not written beside the source.
pub fn cases(usual: u32) -> Config {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let config = Config::default();
    Config {
        cases: if asked { config.cases } else { usual },
        failure_persistence: None,
        ..config
    }
}
