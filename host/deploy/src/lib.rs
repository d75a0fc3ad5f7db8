//! Addresses, transports and sessions with a device.
