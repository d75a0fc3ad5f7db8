//! The link protocol: frames, messages and state machines that do no I/O of their own.
