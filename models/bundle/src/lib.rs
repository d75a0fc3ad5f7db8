//! The bundle format: manifest, content-addressed chunks, digests, signature. Knows nothing of ML.
