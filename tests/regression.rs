//! One test a bug that a user met or that a random run found: named after what was seen, with its seed or its bytes.
