//! Chat templates.

/// stub to be replaced in the next minutes
pub struct ChatTemplate;
