//! Where one event ends: bytes of a generation in, lines out. Handles the partial last line, torn heads, glued
//! events, NUL runs and lines over `line_max` (design rules R9, R10). Knows no files and no positions but offsets.
//!
//! Invariants: every byte that went in comes out once, in order, as part of a line, a piece or a NUL gap, or is still
//! held as the unfinished last line; memory held is bounded by `line_max` plus one chunk.

pub mod lines;

mod salvage;
