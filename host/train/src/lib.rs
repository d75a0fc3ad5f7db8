//! Data sets, features, fine-tuning, calibration and evaluation.
