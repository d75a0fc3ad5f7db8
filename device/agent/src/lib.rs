//! The device daemon: slots, store, display and link server.
