//! The op set, the Program it is recorded into, and the tape that differentiates it
