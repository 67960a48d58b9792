//! The census of real interpreters against what they say of themselves.
