//! Architectures as data, the catalogue of pretrained weights, the preprocessing definition.
