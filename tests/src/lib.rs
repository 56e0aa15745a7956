//! The story
