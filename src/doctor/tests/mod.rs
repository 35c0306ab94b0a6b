//! The doctor against peers that misbehave.
